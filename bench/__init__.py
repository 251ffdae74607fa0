"""What helmas claims about speed: ratios of two things measured in one run, since machines are noisy."""
