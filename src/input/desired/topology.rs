//! What a good deployment looks like: one row per rule, in [`RULES`].
