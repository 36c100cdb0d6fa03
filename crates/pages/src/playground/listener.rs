//! The listener of clients that the playground uses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use config::settings::Listener;

use crate::params::ApiError;

/// A listener that is bound.
#[derive(Clone, Debug)]
pub struct Listening {
    /// Its address.
    pub address: SocketAddr,
    /// Its settings.
    pub listener: Listener,
}

impl Listening {
    /// Where a client on this machine connects.
    pub(super) fn target(&self) -> SocketAddr {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        SocketAddr::new(ip, self.address.port())
    }

    /// Its URL.
    pub(super) fn url(&self) -> String {
        let scheme = if self.listener.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.target())
    }

    /// Why the playground cannot use it.
    fn problem(&self) -> Option<&'static str> {
        let Listener { tls, proxy_protocol, .. } = &self.listener;
        match tls {
            Some(tls) if tls.client_ca.is_some() && tls.client_required => {
                Some("requires client certificates")
            }
            _ if *proxy_protocol => Some("requires a PROXY header"),
            _ if !self.listener.admits(self.target().ip()) => {
                Some("does not admit this machine (allow, deny)")
            }
            _ => None,
        }
    }
}

/// The first listener that a client on this machine can use without a certificate of its own.
pub(super) fn choose(listeners: &[Listening]) -> Result<&Listening, ApiError> {
    if let Some(usable) = listeners.iter().find(|listener| listener.problem().is_none()) {
        return Ok(usable);
    }
    let problem = |listener: &Listening| {
        format!("{} {}", listener.address, listener.problem().unwrap_or_default())
    };
    let problems: Vec<String> = listeners.iter().map(problem).collect();
    Err(ApiError::unavailable(format!(
        "the playground can use no listener: {}; add one without these on a loopback address",
        problems.join("; ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(settings: &str) -> Vec<Listening> {
        let text = format!(
            "trusted_proxies: [10.0.0.0/8]\nlisteners: [{settings}]\n\
             backends: [{{name: b, url: 'http://127.0.0.1:1'}}]\nroutes: [{{name: r, backend: b}}]\n"
        );
        let settings = config::parse("test", &text).unwrap_or_else(|problems| panic!("{problems}"));
        let listening = |listener: Listener| Listening { address: listener.address, listener };
        settings.listeners.into_iter().map(listening).collect()
    }

    #[test]
    fn the_first_listener_that_this_machine_can_use_is_chosen() {
        let choose = |settings: &str| {
            choose(&listening(settings)).map(Listening::url).map_err(|error| error.message())
        };
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let mutual = format!(
            "{{address: '127.0.0.1:1', tls: {{cert: '{file}', key: '{file}', client_ca: '{file}'}}}}"
        );
        let tls = format!("{{address: '127.0.0.1:2', tls: {{cert: '{file}', key: '{file}'}}}}");
        let usable = "{address: '0.0.0.0:3'}";
        let denied = "{address: '127.0.0.1:4', allow: [10.0.0.0/8]}";
        let proxied = "{address: '127.0.0.1:5', proxy_protocol: true}";
        let all = [&*mutual, denied, proxied, usable, &tls].join(", ");
        assert_eq!(choose(&all).as_deref(), Ok("http://127.0.0.1:3"));
        assert_eq!(choose(&tls).as_deref(), Ok("https://127.0.0.1:2"));
        assert_eq!(choose("{address: '[::]:6'}").as_deref(), Ok("http://[::1]:6"));
        for (settings, problem) in [
            (&*mutual, "127.0.0.1:1 requires client certificates;"),
            (denied, "127.0.0.1:4 does not admit this machine (allow, deny);"),
            (proxied, "127.0.0.1:5 requires a PROXY header;"),
        ] {
            let told = choose(settings).expect_err(settings);
            assert!(told.contains(problem) && told.contains("loopback"), "{told}");
        }
    }
}
