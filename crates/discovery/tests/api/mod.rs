//! Scripted responses of a cluster's API.

use kit::Step;

/// A slice in the form of the API.
pub fn slice(
    name: &str,
    version: u32,
    kind: &str,
    port: u16,
    addresses: &[(&str, Option<bool>)],
) -> String {
    let endpoint = |(address, ready): &(&str, Option<bool>)| {
        let conditions = ready
            .map_or_else(String::new, |ready| format!(",\"conditions\":{{\"ready\":{ready}}}"));
        format!("{{\"addresses\":[\"{address}\"],\"zone\":\"z1\"{conditions}}}")
    };
    let endpoints: Vec<String> = addresses.iter().map(endpoint).collect();
    format!(
        "{{\"apiVersion\":\"discovery.k8s.io/v1\",\"kind\":\"EndpointSlice\",\"metadata\":{{\"name\":\"{name}\",\"namespace\":\"models\",\
         \"resourceVersion\":\"{version}\"}},\"addressType\":\"{kind}\",\"endpoints\":[{}],\
         \"ports\":[{{\"name\":\"metrics\",\"port\":9000,\"protocol\":\"TCP\"}},{{\"name\":\"http\",\"port\":{port},\"protocol\":\"TCP\"}}]}}",
        endpoints.join(",")
    )
}

/// A whole answer.
pub fn json(status: &str, body: &str) -> Vec<Step> {
    vec![Step::text(format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))]
}

/// A list of slices.
pub fn list(version: u32, slices: &[String]) -> Vec<Step> {
    let items = slices.join(",");
    json(
        "200 OK",
        &format!(
            "{{\"apiVersion\":\"discovery.k8s.io/v1\",\"kind\":\"EndpointSliceList\",\"metadata\":{{\"resourceVersion\":\"{version}\"}},\"items\":[{items}]}}"
        ),
    )
}

/// A line of a watch.
pub fn event(kind: &str, object: &str) -> Step {
    Step::chunk(format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n"))
}

/// The beginning of a watch.
pub const WATCHING: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
