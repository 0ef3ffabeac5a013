// SPDX-License-Identifier: Apache-2.0
//! The JSON Schema of `vm.toml`, derived from the tables as they are parsed.
//!
//! Editors with a TOML language server complete and check with it. It knows types, ranges, words and which
//! keys belong to which boot profile; rules between other keys (`low_memory` ≤ `memory`, distinct serials)
//! are only in `cvmm config check`.

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use serde_json::Value;

use super::vm::RawVm;

/// The schema as pretty-printed JSON with a final line break.
#[must_use]
pub fn schema() -> String {
    let generator = SchemaSettings::draft2020_12().with_transform(NoNull).into_generator();
    let schema = generator.into_root_schema_for::<RawVm>();
    // A JSON value always prints; `{:#}` is serde_json's pretty form.
    format!("{:#}\n", sorted(schema.to_value()))
}

/// `value` with the keys of its objects in order. serde_json keeps them in the order of insertion if any
/// crate of the build turns on its `preserve_order`.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let mut entries: Vec<_> = object.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(values) => values.into_iter().map(sorted).collect(),
        other => other,
    }
}

/// TOML has no null: an optional key is one that may be absent.
#[derive(Clone, Debug)]
struct NoNull;

impl Transform for NoNull {
    fn transform(&mut self, schema: &mut Schema) {
        if let Some(Value::Array(types)) = schema.get_mut("type") {
            types.retain(|kind| kind != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                schema.insert("type".to_owned(), only);
            }
        }
        if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
            choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
            if let [Value::Object(only)] = choices.as_slice() {
                let only = only.clone();
                schema.remove("anyOf");
                for (key, value) in only {
                    schema.insert(key, value);
                }
            }
        }
        transform_subschemas(self, schema);
    }
}
