"""What failed tests leave behind: bundles, saved guests, replay."""
