//! How requests of a simulated engine fail.

use std::fmt;
use std::str::FromStr;

/// A kind of failure. Those in mid-answer come after half of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An error answer with this status: 429, 500 or 503.
    Status(u16),
    /// The connection is reset.
    Reset,
    /// A pause of [`Profile::stall`](super::Profile::stall); then the answer goes on.
    Stall,
    /// An error event in a stream, or an error body with status 200.
    ErrorEvent,
    /// The answer ends without its last event, its end marker, or the rest of its body.
    Truncate,
}

impl Fault {
    /// All kinds with their names.
    pub const ALL: [(&'static str, Fault); 7] = [
        ("429", Fault::Status(429)),
        ("500", Fault::Status(500)),
        ("503", Fault::Status(503)),
        ("reset", Fault::Reset),
        ("stall", Fault::Stall),
        ("error-event", Fault::ErrorEvent),
        ("truncate", Fault::Truncate),
    ];

    /// Whether a client has to count the request as failed.
    pub fn is_failure(self) -> bool {
        self != Fault::Stall
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Fault::ALL.iter().find(|(_, fault)| fault == self).map(|(name, _)| *name);
        f.write_str(name.unwrap_or("status"))
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Fault::ALL.iter().find(|(known, _)| *known == name);
        known.map(|(_, fault)| *fault).ok_or_else(|| {
            let names = Fault::ALL.map(|(name, _)| name).join(", ");
            format!("{name:?} is not a kind of failure; use one of {names}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_round_trip() {
        for (name, fault) in Fault::ALL {
            assert_eq!(name.parse(), Ok(fault));
            assert_eq!(fault.to_string(), name);
        }
        assert!("404".parse::<Fault>().unwrap_err().contains("429, 500, 503, reset"));
    }
}
