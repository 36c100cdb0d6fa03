//! Key sets in a build without the feature `jwt`: they cannot be configured.

use std::convert::Infallible;

use config::settings::{JwtSettings, Limits};
use traffic::Identity;
use traffic::settings::Limit;
use transport::BuildError;

/// There is no value of this type.
#[derive(Debug)]
pub struct Jwks(Infallible);

impl Jwks {
    /// Never called: `plan` refuses settings with issuers first.
    pub fn build(_: &[JwtSettings], _: Limits, _: Option<&Jwks>) -> Result<Self, BuildError> {
        unreachable!("invariant: plan refuses what this build cannot do")
    }

    pub fn file_problems(_: &[JwtSettings], _: Option<&Jwks>) -> Vec<(usize, String)> {
        Vec::new()
    }

    pub fn matches_settings(&self, _: &[JwtSettings]) -> bool {
        match self.0 {}
    }

    pub fn pending(&self) -> Option<&str> {
        match self.0 {}
    }

    pub async fn refresh(&self) {
        match self.0 {}
    }

    pub fn authenticate(&self, _: &str, _: &[Limit]) -> Identity {
        match self.0 {}
    }
}
