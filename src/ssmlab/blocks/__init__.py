"""What surrounds a mixer: the Mamba block, the gated MLP, norm and residual."""
