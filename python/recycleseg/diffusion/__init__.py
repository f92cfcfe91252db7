"""The diffusion process: schedule, forward and reverse step, training strategies, time steps."""
