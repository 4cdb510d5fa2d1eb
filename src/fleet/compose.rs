//! x
use super::args::Call;
use crate::exit::Error;
/// x
pub fn import(_: &Call) -> Result<u8, Error> { Ok(0) }
