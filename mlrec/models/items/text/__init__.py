"""Text encoders, a file for each family: token ids in, one vector out."""
