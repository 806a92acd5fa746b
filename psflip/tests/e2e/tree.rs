//! Process trees: nothing outlives psflip, no zombies (C7 to C9).
