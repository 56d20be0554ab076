//! Checks of the fleet itself.

use anyhow::Result;

/// Runs all checks.
pub fn run() -> Result<()> {
    Ok(())
}
