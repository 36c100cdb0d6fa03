//! The JSON Schema of the settings file, for editors, made from the table.

use serde_json::{Map, Value, json};

use crate::{Field, Kind, ROOT, Section};

/// A draft 2020-12 schema.
pub fn json_schema() -> Value {
    let mut schema = section(&ROOT);
    if let Some(object) = schema.as_object_mut() {
        object.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
        object.insert("title".into(), "llm-lens gateway settings".into());
    }
    schema
}

fn section(section: &Section) -> Value {
    let properties: Map<String, Value> =
        section.fields.iter().map(|f| (f.name.to_owned(), property(f))).collect();
    let required: Vec<&str> = section
        .fields
        .iter()
        .filter(|f| matches!(f.kind, Kind::RequiredText))
        .map(|f| f.name)
        .collect();
    json!({"type": "object", "description": section.doc, "additionalProperties": false, "properties": properties, "required": required})
}

fn property(field: &Field) -> Value {
    let mut value = match &field.kind {
        Kind::Text | Kind::RequiredText | Kind::Secret => json!({"type": "string"}),
        Kind::Flag => json!({"type": "boolean"}),
        Kind::Share => json!({"type": "number", "minimum": 0, "maximum": 1}),
        Kind::Number => json!({"type": "number", "minimum": 0}),
        Kind::Count(min, max) => json!({"type": "integer", "minimum": min, "maximum": max}),
        Kind::Duration => {
            json!({"type": ["string", "integer"], "pattern": r"^[0-9.]+ *(us|ms|s|m|h|d)$|^0$"})
        }
        Kind::DurationOrAuto => {
            json!({"type": ["string", "integer"], "pattern": r"^[0-9.]+ *(us|ms|s|m|h|d)$|^0$|^auto$"})
        }
        Kind::Size => {
            json!({"type": ["string", "integer"], "pattern": r"^[0-9.]+ *(B|KiB|MiB|GiB|kB|KB|MB|GB)?$"})
        }
        Kind::Word(words) => json!({"enum": words}),
        Kind::Texts => json!({"type": "array", "items": {"type": "string"}}),
        Kind::TextMap => {
            json!({"type": "object", "additionalProperties": {"type": ["string", "integer", "boolean"]}})
        }
        Kind::Section(s) => section(s),
        Kind::List(s) => json!({"type": "array", "items": section(s)}),
    };
    if let Some(object) = value.as_object_mut() {
        object.insert("description".into(), field.doc.into());
        if !field.default.is_empty() {
            object.insert("default".into(), default(field));
        }
    }
    value
}

fn default(field: &Field) -> Value {
    match field.kind {
        Kind::Flag => Value::Bool(field.default == "true"),
        Kind::Share | Kind::Number => field.default.parse::<f64>().map_or(Value::Null, Value::from),
        Kind::Count(..) => field.default.parse::<u64>().map_or(Value::Null, Value::from),
        _ => field.default.into(),
    }
}
