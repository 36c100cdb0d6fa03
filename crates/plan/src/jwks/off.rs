//! A build without the feature `jwt`: tokens of identity providers cannot be set up, so that there
//! are none to judge.

use std::convert::Infallible;

use config::settings::{JwtSettings, Limits};
use traffic::Identity;
use traffic::settings::Limit;
use transport::BuildError;

/// All issuers: none.
#[derive(Debug)]
pub struct Jwks(Infallible);

impl Jwks {
    /// `plan` refuses settings with issuers before it comes to this.
    pub fn build(_: &[JwtSettings], _: Limits) -> Result<Self, BuildError> {
        unreachable!("invariant: plan refuses what this build cannot do")
    }

    pub fn are(&self, _: &[JwtSettings]) -> bool {
        match self.0 {}
    }

    pub async fn refresh(&self) {
        match self.0 {}
    }

    pub fn judge(&self, _: &str, _: &[Limit]) -> Identity {
        match self.0 {}
    }
}
