//! The `Host` of requests to a listener of operators.
//!
//! - *In*: a host, with or without a port; the names that the settings permit.
//! - *Out*: whether it is served.
//! - *Never*: another name. A web page could let its own name resolve to the listener (DNS
//!   rebinding) and read every answer.

use std::net::IpAddr;

/// Whether a host is an IP address, a loopback name, or one of `hosts`, of which `*.NAME` matches
/// all names below it. `hosts` are in lower case.
pub fn is_served(host: &str, hosts: &[String]) -> bool {
    let has_port =
        |(_, port): &(&str, &str)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let name = host.rsplit_once(':').filter(has_port).map_or(host, |(name, _)| name);
    if name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let is_listed = |listed: &String| match listed.strip_prefix('*') {
        Some(domain) => name.len() > domain.len() && name.ends_with(domain),
        None => name == *listed,
    };
    name == "localhost" || name.ends_with(".localhost") || hosts.iter().any(is_listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_loopback_names_and_listed_names_are_served() {
        let hosts = ["lens.internal".to_owned(), "*.svc.cluster.local".to_owned()];
        for host in [
            "127.0.0.1:9090",
            "10.0.0.7",
            "[::1]:9090",
            "[::1]",
            "localhost",
            "LocalHost:9090",
            "lens.localhost:1",
            "lens.internal:9090",
            "Lens.Internal.",
            "lens.monitoring.svc.cluster.local:9090",
        ] {
            assert!(is_served(host, &hosts), "{host}");
        }
        for host in [
            "evil.example:9090",
            "evil.example",
            "",
            "localhost.evil.example",
            "evil-localhost",
            "127.0.0.1.evil.example",
            "x.lens.internal",
            ".svc.cluster.local",
            "svc.cluster.local",
            "lens.internal@evil.example",
            "lens.internal:x",
        ] {
            assert!(!is_served(host, &hosts), "{host}");
        }
    }
}
