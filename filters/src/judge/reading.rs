//! Helpers to parse responses of judges.
//!
//! - *In*: JSON values of a response.
//! - *Out*: checked values.
//! - *Never*: a length, an order or a number that is trusted unchecked.

use serde_json::{Map, Value};

/// A score, clamped to 0 to 1; `None` if it is not a number.
pub(super) fn score(value: &Value) -> Option<f32> {
    bounded(value.as_f64()?)
}

/// A number as `f32`; `None` if it is not a number, or infinite as `f32`.
pub(super) fn number(value: &Value) -> Option<f32> {
    let number = value.as_f64()? as f32;
    number.is_finite().then_some(number)
}

/// A number clamped to 0 to 1; `None` if it is not a number.
pub(super) fn bounded(number: f64) -> Option<f32> {
    number.is_finite().then_some(number.clamp(0.0, 1.0) as f32)
}

/// A member that may be missing or `null`. The outer `None` means that its value is invalid.
pub(super) fn optional<'v, T>(
    of: &'v Value,
    name: &str,
    read: impl FnOnce(&'v Value) -> Option<T>,
) -> Option<Option<T>> {
    match of.get(name) {
        None | Some(Value::Null) => Some(None),
        Some(value) => read(value).map(Some),
    }
}

/// A member that is an object, or nothing.
pub(super) fn object<'v>(of: &'v Value, name: &str) -> Option<Option<&'v Map<String, Value>>> {
    optional(of, name, Value::as_object)
}

/// The results for `asked` texts, in their order. The list must have one entry for each text. An
/// entry belongs to the text at its `index`, or at its position if it has no `index`.
pub(super) fn by_index<'v, T>(
    list: &'v Value,
    asked: usize,
    read: impl Fn(&'v Value) -> Option<T>,
) -> Option<Vec<T>> {
    let list = list.as_array().filter(|list| list.len() == asked)?;
    let mut slots: Vec<Option<T>> = std::iter::repeat_with(|| None).take(asked).collect();
    for (place, entry) in list.iter().enumerate() {
        let index = optional(entry, "index", Value::as_u64)?
            .map_or(Some(place), |index| usize::try_from(index).ok())?;
        let slot = slots.get_mut(index).filter(|slot| slot.is_none())?;
        *slot = Some(read(entry)?);
    }
    slots.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scores_are_clamped() {
        assert_eq!(score(&json!(0.25)), Some(0.25));
        assert_eq!(score(&json!(-3)), Some(0.0));
        assert_eq!(score(&json!(17)), Some(1.0));
        assert_eq!(score(&json!(1e300)), Some(1.0));
        assert_eq!(score(&json!("NaN")), None);
        assert_eq!(score(&json!(null)), None);
        assert_eq!(bounded(f64::NAN), None);
    }

    #[test]
    fn entries_are_ordered_by_index() {
        let read = |entry: &Value| entry.get("x").and_then(Value::as_u64);
        assert_eq!(
            by_index(&json!([{"index": 1, "x": 5}, {"index": 0, "x": 4}]), 2, read),
            Some(vec![4, 5])
        );
        assert_eq!(by_index(&json!([{"x": 5}, {"x": 4}]), 2, read), Some(vec![5, 4]));
        for wrong in [
            json!([{"index": 1, "x": 5}, {"index": 1, "x": 4}]),
            json!([{"index": 2, "x": 5}, {"index": 0, "x": 4}]),
            json!([{"index": -1, "x": 5}, {"index": 0, "x": 4}]),
            json!([{"index": 0, "x": 5}]),
            json!({"0": 1}),
        ] {
            assert_eq!(by_index(&wrong, 2, read), None, "{wrong}");
        }
    }
}
