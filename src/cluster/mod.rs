//! The field's nouns: WAL positions, timelines, roles, modes. No serde, no I/O.
