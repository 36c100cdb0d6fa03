//! Whether two runs had the same workload, on the same class of machine.

use serde_json::Value;

use crate::run::Run;

/// The fields that must be equal, and that `--allow` can name.
pub const FIELDS: [&str; 10] = [
    "arrival",
    "machine",
    "max_tokens",
    "model",
    "objectives",
    "prompts",
    "seed",
    "stop",
    "stream",
    "warm_up",
];

/// What differs: reasons against a comparison, and notes about what is allowed.
pub(super) fn differences(base: &Run, new: &Run, allow: &[String]) -> (Vec<String>, Vec<String>) {
    let (mut reasons, mut notes) = (Vec::new(), Vec::new());
    let fields = base.workload.iter().map(|(name, value)| ("workload", name, value, &new.workload));
    let machine = base.machine.iter().map(|(name, value)| ("machine", name, value, &new.machine));
    for (kind, name, value, others) in fields.chain(machine) {
        let other = others.get(name).unwrap_or(&Value::Null);
        if value == other {
            continue;
        }
        let field = if kind == "machine" { "machine" } else { name.as_str() };
        let what = if kind == "machine" { format!("machine, {name}") } else { name.clone() };
        let difference = format!("{what}: {value} in {}, and {other} in {}", base.name, new.name);
        if allow.iter().any(|allowed| allowed == field) {
            notes.push(format!("{difference} (allowed)"));
        } else {
            reasons.push(format!("{difference}; make the baseline again, or add --allow {field}"));
        }
    }
    (reasons, notes)
}
