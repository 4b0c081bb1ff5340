"""Audio encoders: waveforms to vectors."""
