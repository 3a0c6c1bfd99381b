"""The tasks that come with t2x; they register like anybody else's, through the entry-point group `t2x`."""
