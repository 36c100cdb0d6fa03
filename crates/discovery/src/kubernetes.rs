//! Discovery of the ready endpoints of a Kubernetes service.
//!
//! - *In*: the name of a service; the cluster's API, configured by the pod or by `KUBECONFIG`.
//! - *Out*: its endpoints that are ready, and again whenever they change.
//! - *Never*: an endpoint whose pod is not ready; an empty set because the API was unreachable.
//!
//! EndpointSlices (`discovery.k8s.io/v1`) are listed once and then watched. This requires
//! permission to `list` and `watch` them in the service's namespace.
use std::collections::BTreeMap;
use std::future::ready;
use std::net::IpAddr;
use std::time::Duration;

use config::Endpoint;
use futures_util::{FutureExt, Stream, StreamExt};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};

use crate::Reporter;

/// Delay between attempts to find a cluster.
const RETRY: Duration = Duration::from_secs(10);
/// The label of a slice that names its service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its namespace; `None`: the one of the pod or of `KUBECONFIG`.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// The port's name, or its number at the pods; `None`: the only one.
    pub port: Option<String>,
}

/// Streams the ready endpoints of a service whenever they change, from the cluster that the process
/// runs in or that `KUBECONFIG` names. Never ends.
pub fn endpoints(service: Service) -> impl Stream<Item = Vec<Endpoint>> + Send {
    async move { endpoints_in(client().await, service) }.flatten_stream()
}

/// Like [`endpoints`], in a given cluster.
pub fn endpoints_in(cluster: Client, service: Service) -> impl Stream<Item = Vec<Endpoint>> + Send {
    let namespace =
        service.namespace.clone().unwrap_or_else(|| cluster.default_namespace().to_owned());
    let slices: Api<EndpointSlice> = Api::namespaced(cluster, &namespace);
    let wanted =
        watcher::Config::default().labels(&format!("{SERVICE_NAME_LABEL}={}", service.name));
    let apply = move |slices: &mut Slices, event| {
        let changed = match event {
            Ok(event) => slices.apply(event),
            Err(error) => {
                tracing::warn!(namespace, service = %service.name, %error, "Kubernetes API unavailable, keeping the previous endpoints");
                false
            }
        };
        ready(Some(changed.then(|| slices.endpoints(&service)).flatten()))
    };
    watcher(slices, wanted).default_backoff().scan(Slices::default(), apply).filter_map(ready)
}

pub(crate) async fn watch(service: Service, reporter: Reporter) {
    let mut found = std::pin::pin!(endpoints(service));
    while let Some(endpoints) = found.next().await {
        reporter.report(endpoints).await;
    }
}

async fn client() -> Client {
    loop {
        match Client::try_default().await {
            Ok(client) => return client,
            Err(error) => {
                tracing::warn!(retry_in = ?RETRY, %error, "no Kubernetes cluster found, retrying")
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The slices of a service, by name.
#[derive(Debug, Default)]
struct Slices {
    known: BTreeMap<String, EndpointSlice>,
    /// Slices of a list that is not complete yet.
    listed: BTreeMap<String, EndpointSlice>,
}

impl Slices {
    /// Applies an event; returns whether the known slices may have changed. A list that is not
    /// complete does not change them.
    fn apply(&mut self, event: watcher::Event<EndpointSlice>) -> bool {
        match event {
            watcher::Event::Init => self.listed.clear(),
            watcher::Event::InitApply(slice) => drop(self.listed.insert(slice.name_any(), slice)),
            watcher::Event::InitDone => {
                self.known = std::mem::take(&mut self.listed);
                return true;
            }
            watcher::Event::Apply(slice) => {
                self.known.insert(slice.name_any(), slice);
                return true;
            }
            watcher::Event::Delete(slice) => return self.known.remove(&slice.name_any()).is_some(),
        }
        false
    }

    /// Ready endpoints; `None`: unknown, because pods are ready and the port is ambiguous. A pod
    /// with two addresses counts once, with an address of the first family that any pod has.
    fn endpoints(&self, service: &Service) -> Option<Vec<Endpoint>> {
        let mut found = ["IPv4", "IPv6"].iter().map(|kind| -> Vec<Option<Endpoint>> {
            self.known
                .values()
                .filter(|slice| slice.address_type == *kind)
                .flat_map(|slice| ready_endpoints(slice, service))
                .collect()
        });
        let found = found.find(|found| !found.is_empty()).unwrap_or_default();
        let (all, meant) = (found.len(), found.into_iter().flatten().collect::<Vec<_>>());
        (all == 0 || !meant.is_empty()).then_some(meant)
    }
}

/// The ready endpoints of a slice; `None` for those without a matching port.
fn ready_endpoints(slice: &EndpointSlice, service: &Service) -> Vec<Option<Endpoint>> {
    let port = port_of(slice, service);
    // By the API's definition, an absent condition means ready.
    let is_ready = |endpoint: &&k8s_openapi::api::discovery::v1::Endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
    };
    let endpoint = |endpoint: &k8s_openapi::api::discovery::v1::Endpoint| {
        // All addresses of an endpoint belong to one server; the first is used.
        let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        Some(port.map(|port| Endpoint { address, port, weight: 0, zone: endpoint.zone.clone() }))
    };
    slice.endpoints.iter().filter(is_ready).filter_map(endpoint).collect()
}

/// The port of a slice that requests are sent to.
fn port_of(slice: &EndpointSlice, service: &Service) -> Option<u16> {
    let is_tcp = |protocol: Option<&str>| protocol.is_none_or(|protocol| protocol == "TCP");
    let ports = slice.ports.iter().flatten().filter(|port| is_tcp(port.protocol.as_deref()));
    let ports = ports.filter_map(|port| {
        Some((port.name.as_deref().unwrap_or_default(), u16::try_from(port.port?).ok()?))
    });
    let ports: Vec<(&str, u16)> = ports.collect();
    let meant = match (&service.port, &*ports) {
        (Some(wanted), _) => {
            ports.iter().find(|(name, port)| name == wanted || port.to_string() == *wanted)
        }
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    if meant.is_none() && !slice.endpoints.is_empty() {
        tracing::warn!(service = %service.name, ?ports, "ambiguous port, keeping the previous endpoints; name one in the settings");
    }
    meant.map(|(_, port)| *port)
}
