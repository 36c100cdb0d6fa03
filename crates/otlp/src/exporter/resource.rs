//! The resource of a process.
//!
//! - *In*: attributes of the settings; the key of a record.
//! - *Out*: the resource of the process that made the record: what a spill keeps was often made by
//!   an earlier one.
//! - *Never*: the same `service.instance.id` for two processes, unless the operator sets it. During
//!   an upgrade, two processes of the same service export.

use std::collections::BTreeMap;

use observatory::RecordKey;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::value::{pair, text};

const INSTANCE: &str = "service.instance.id";

/// Resources of processes with the same settings.
#[derive(Debug)]
pub(super) struct Resources {
    attributes: Vec<KeyValue>,
    has_instance: bool,
}

impl Resources {
    pub(super) fn new(attributes: &BTreeMap<String, String>) -> Self {
        Resources {
            has_instance: attributes.contains_key(INSTANCE),
            attributes: attributes.iter().map(|(key, value)| pair(key, text(value))).collect(),
        }
    }

    /// The resource of the process that made the key.
    pub(super) fn of_process(&self, key: &RecordKey) -> Resource {
        let id = || pair(INSTANCE, text(format!("{}-{:x}", key.instance, key.epoch)));
        let own = (!self.has_instance).then(id);
        let attributes = self.attributes.iter().cloned().chain(own).collect();
        Resource { attributes, ..Resource::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(resource: &Resource) -> String {
        let pair = resource.attributes.iter().find(|pair| pair.key == INSTANCE);
        format!("{:?}", pair.expect("it has one").value)
    }

    #[test]
    fn each_process_is_an_instance() {
        let resources = Resources::new(&BTreeMap::new());
        let key = RecordKey { instance: "host".into(), epoch: 0xabc, sequence: 1 };
        let own = resources.of_process(&key);
        assert!(instance(&own).contains("\"host-abc\""), "{own:?}");
        assert_eq!(own, resources.of_process(&key.plus(5)));
        let other = RecordKey { epoch: 0xabd, ..key.clone() };
        assert_ne!(instance(&own), instance(&resources.of_process(&other)));
        let set = BTreeMap::from([(INSTANCE.to_owned(), "one".to_owned())]);
        let set = Resources::new(&set);
        assert_eq!(set.of_process(&key), set.of_process(&other));
        assert_eq!(set.of_process(&key).attributes.len(), 1);
    }
}
