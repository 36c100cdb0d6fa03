//! Short forms for the attributes of OTLP messages.

use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value};

pub(crate) fn text(value: impl Into<String>) -> AnyValue {
    AnyValue { value: Some(any_value::Value::StringValue(value.into())) }
}

pub(crate) fn int(value: u64) -> AnyValue {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    AnyValue { value: Some(any_value::Value::IntValue(value)) }
}

pub(crate) fn double(value: f64) -> AnyValue {
    AnyValue { value: Some(any_value::Value::DoubleValue(value)) }
}

pub(crate) fn flag(value: bool) -> AnyValue {
    AnyValue { value: Some(any_value::Value::BoolValue(value)) }
}

pub(crate) fn texts(values: &[String]) -> AnyValue {
    let values = values.iter().map(text).collect();
    AnyValue { value: Some(any_value::Value::ArrayValue(ArrayValue { values })) }
}

pub(crate) fn pair(key: impl Into<String>, value: AnyValue) -> KeyValue {
    KeyValue { key: key.into(), value: Some(value), ..KeyValue::default() }
}
