//! The configuration file: TOML, every key documented, unknown keys are errors.
