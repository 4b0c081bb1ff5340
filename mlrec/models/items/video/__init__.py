"""Video encoders, a file for each family: frames in, one vector out."""
