"""What `t2x bench` measures: ratios against a baseline in the same run, medians, on a named machine."""
