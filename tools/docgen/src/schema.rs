//! The JSON Schema (draft 2020-12) of a configuration, for editors: what can be known without rendering a template.

use psflip::testing::config::keys::{Absent, Key, Kind, TOP, Table, Zero};
use serde_json::{Map, Value, json};

/// What a string with a template in it looks like; its value isn't known.
const TEMPLATE: &str = r"\{[\{%#]";

/// All of it.
pub(crate) fn schema() -> Value {
    let mut schema = table(&TOP);
    let head = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "psflip.toml",
        "description": "The configuration of psflip, a zero-downtime process flipper. Every string may be a template.",
    });
    if let (Value::Object(schema), Value::Object(head)) = (&mut schema, head) {
        schema.extend(head);
    }
    schema
}

fn table(table: &Table) -> Value {
    let properties: Map<String, Value> =
        table.keys.iter().map(|key| (key.name.to_owned(), property(table, key))).collect();
    let required: Vec<&str> =
        table.keys.iter().filter(|key| matches!(key.absent, Absent::Required)).map(|key| key.name).collect();
    let mut schema = json!({
        "type": "object",
        "description": table.about(),
        "additionalProperties": false,
        "properties": properties,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn property(table: &Table, key: &Key) -> Value {
    let mut schema = value(&key.kind);
    let example = table.text(key).example;
    if !example.is_empty() {
        schema["examples"] = json!([example]);
    }
    schema["description"] = json!(table.text(key).about);
    if let Absent::Is(text) = key.absent
        && let Ok(value) = serde_json::from_str::<Value>(text)
    {
        schema["default"] = value;
    }
    schema
}

/// A string that looks like `pattern`, or is a template.
fn string(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": format!("({pattern})|{TEMPLATE}") })
}

fn word(words: &[&str]) -> Value {
    json!({ "anyOf": [{ "enum": words }, { "type": "string", "pattern": TEMPLATE }] })
}

fn value(kind: &Kind) -> Value {
    match kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Special => json!({ "type": "string", "minLength": 1 }),
        Kind::OrFalse => json!({ "anyOf": [{ "type": "string", "minLength": 1 }, { "const": false }] }),
        Kind::Duration(zero) => {
            let mut schema = string("^(?:[0-9]+d)?(?:[0-9]+h)?(?:[0-9]+m)?(?:[0-9]+s)?(?:[0-9]+ms)?$");
            schema["minLength"] = json!(2);
            schema["examples"] = json!(["500ms", "10s", "1m30s"]);
            if matches!(zero, Zero::Refused(_)) {
                schema["not"] = json!({ "pattern": "^(?:0+[a-z]+)+$" });
            }
            schema
        }
        Kind::Size => {
            let mut schema = string("^0*[1-9][0-9]*[KMGT]$");
            schema["examples"] = json!(["512M", "2G"]);
            schema
        }
        Kind::Percent(_) => string("^[0-9]+%$"),
        Kind::Signal => {
            let mut schema = string("^[A-Za-z][A-Za-z0-9+-]*$");
            schema["examples"] =
                json!(["SIGHUP", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGINT", "SIGWINCH"]);
            schema
        }
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Number(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Kind::Word(words) => word(words),
        Kind::Words(words) => {
            json!({ "anyOf": [word(words), { "type": "array", "minItems": 1, "items": word(words) }] })
        }
        Kind::Argv(empty) => json!({
            "type": "array",
            "minItems": u8::from(!empty),
            "prefixItems": [{ "type": "string", "minLength": 1 }],
            "items": { "type": "string" },
        }),
        Kind::Paths => json!({ "anyOf": [
            { "type": "string", "minLength": 1 },
            { "type": "array", "items": { "type": "string", "minLength": 1 } },
        ] }),
        Kind::Status => json!({ "anyOf": [
            { "type": "integer", "minimum": 100, "maximum": 599 },
            string("^ *[1-5][0-9][0-9] *(?:[-,] *[1-5][0-9][0-9] *)*$"),
        ] }),
        Kind::Mode => string("^[0-7]{3,4}$"),
        Kind::Map(removes) => {
            let any = if *removes {
                json!({ "anyOf": [{ "type": "string" }, { "const": false }] })
            } else {
                json!({ "type": "string" })
            };
            json!({ "type": "object", "additionalProperties": any })
        }
        Kind::Signals => json!({
            "type": "object",
            "propertyNames": value(&Kind::Signal),
            "additionalProperties": { "anyOf": [value(&Kind::Signal), { "const": false }] },
        }),
        Kind::Table(inner) => table(inner),
        Kind::One(kinds) => {
            let properties: Map<String, Value> =
                kinds.iter().map(|(name, inner)| ((*name).to_owned(), table(inner))).collect();
            json!({
                "type": "object", "additionalProperties": false, "minProperties": 1, "maxProperties": 1, "properties": properties,
            })
        }
        Kind::Many(inner, most) => json!({ "type": "array", "maxItems": most, "items": table(inner) }),
    }
}
