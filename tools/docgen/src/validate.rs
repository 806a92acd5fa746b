//! A validator for as much of JSON Schema (draft 2020-12) as our schema uses; a keyword that it doesn't know fails the test, so none is
//! ignored. Other validators are large.

use regex_lite::Regex;
use serde_json::{Map, Value};

/// Why `value` is not what `schema` allows, with its place.
pub(crate) fn validate(value: &Value, schema: &Value, place: &str) -> Result<(), String> {
    let Some(schema) = schema.as_object() else { return Err(format!("{place}: no schema")) };
    schema.iter().try_for_each(|(keyword, wanted)| {
        if holds(keyword, wanted, schema, value, place)? {
            return Ok(());
        }
        Err(format!("{place}: {value} breaks `{keyword}`: {wanted}"))
    })
}

fn holds(
    keyword: &str,
    wanted: &Value,
    schema: &Map<String, Value>,
    value: &Value,
    place: &str,
) -> Result<bool, String> {
    let number = wanted.as_u64();
    let length = |array: bool| match value {
        Value::String(text) if !array => Some(text.chars().count() as u64),
        Value::Array(items) if array => Some(items.len() as u64),
        _ => None,
    };
    let fields = value.as_object();
    Ok(match keyword {
        "$schema" | "title" | "description" | "default" | "examples" => true,
        "type" => match wanted.as_str() {
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("boolean") => value.is_boolean(),
            Some("integer") => value.is_i64() || value.is_u64(),
            _ => return Err(format!("{place}: unknown type {wanted}")),
        },
        "const" => value == wanted,
        "enum" => wanted.as_array().is_some_and(|words| words.contains(value)),
        "pattern" => {
            let pattern =
                Regex::new(wanted.as_str().unwrap_or_default()).map_err(|error| error.to_string())?;
            value.as_str().is_none_or(|text| pattern.is_match(text))
        }
        "minLength" => length(false) >= number || length(false).is_none(),
        "minItems" => length(true) >= number || length(true).is_none(),
        "maxItems" => length(true) <= number,
        "minimum" => value.as_i64() >= wanted.as_i64() || !value.is_number(),
        "maximum" => value.as_i64() <= wanted.as_i64(),
        "minProperties" => fields.is_none_or(|fields| Some(fields.len() as u64) >= number),
        "maxProperties" => fields.is_none_or(|fields| Some(fields.len() as u64) <= number),
        "required" => {
            let names = wanted.as_array().into_iter().flatten().filter_map(Value::as_str);
            fields.is_none_or(|fields| names.into_iter().all(|name| fields.contains_key(name)))
        }
        "not" => validate(value, wanted, place).is_err(),
        "anyOf" => {
            wanted.as_array().into_iter().flatten().any(|schema| validate(value, schema, place).is_ok())
        }
        "properties" => {
            for (name, value) in fields.into_iter().flatten() {
                if let Some(schema) = wanted.get(name) {
                    validate(value, schema, &format!("{place}.{name}"))?;
                }
            }
            true
        }
        "additionalProperties" => {
            let known = |name: &str| schema.get("properties").is_some_and(|known| known.get(name).is_some());
            for (name, value) in fields.into_iter().flatten().filter(|(name, _)| !known(name)) {
                match wanted {
                    Value::Bool(false) => return Err(format!("{place}: `{name}` is no key")),
                    schema => validate(value, schema, &format!("{place}.{name}"))?,
                }
            }
            true
        }
        "propertyNames" => {
            for name in fields.into_iter().flat_map(Map::keys) {
                validate(&Value::String(name.clone()), wanted, &format!("{place}: key `{name}`"))?;
            }
            true
        }
        "prefixItems" => {
            let pairs = value.as_array().into_iter().flatten().zip(wanted.as_array().into_iter().flatten());
            for (value, schema) in pairs {
                validate(value, schema, place)?;
            }
            true
        }
        "items" => {
            let before = schema.get("prefixItems").and_then(Value::as_array).map_or(0, Vec::len);
            for value in value.as_array().into_iter().flatten().skip(before) {
                validate(value, wanted, place)?;
            }
            true
        }
        _ => return Err(format!("the validator doesn't know the keyword `{keyword}`")),
    })
}
