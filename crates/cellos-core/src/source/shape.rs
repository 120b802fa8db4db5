//! Compares a tree with the document's schema and collects everything that does not fit.
//!
//! Runs only when the typed form could not be made, to say all that is wrong and not only the first.
//! Looks at shape alone (names, types, integer widths, enum values): bounds and grammars are
//! admission's.

use serde_json::{Map, Value as Json};

use super::{
    MAX_PROBLEMS, Problem, ProblemCode,
    node::{Entry, Node, Part, Value, join_index, join_key, leads_to},
};
use crate::{admission::shown, schema::FIELD_ALIASES};

/// Where only the typed form has a meaning.
const FILESYSTEM: &str = "spec.authority.filesystem";

/// A problem, and what to leave out so that the rest of the document can be looked at.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) problem: Problem,
    /// Whether the problem is the field's name or its value.
    pub(super) part: Part,
    /// The innermost optional thing around the problem; empty when everything around is required.
    pub(super) optional: String,
}

/// Everything about the tree's shape that does not fit the schema, at most [`MAX_PROBLEMS`].
pub(super) fn findings(root: &Node, schema: &Json) -> Vec<Finding> {
    let mut walker = Walker {
        schema,
        findings: Vec::new(),
    };
    walker.value(root, schema, "", "");
    walker.findings
}

struct Walker<'s> {
    schema: &'s Json,
    findings: Vec<Finding>,
}

impl<'s> Walker<'s> {
    fn value(&mut self, node: &Node, schema: &'s Json, path: &str, optional: &str) {
        let Json::Object(schema) = self.resolve(schema) else {
            return;
        };
        if let Some(Json::Array(choices)) = schema.get("anyOf") {
            // An optional object: null, or the one other choice.
            if node.value != Value::Null
                && let Some(choice) = choices.iter().find(|choice| !is_null_schema(choice))
            {
                self.value(node, choice, path, optional);
            }
            return;
        }
        if let (Some(Json::Array(variants)), None) = (schema.get("oneOf"), schema.get("properties"))
        {
            self.variants(node, variants, path, optional);
            return;
        }
        let types: Vec<&str> = match schema.get("type") {
            Some(Json::String(one)) => vec![one],
            Some(Json::Array(many)) => many.iter().filter_map(Json::as_str).collect(),
            _ => return,
        };
        match &node.value {
            Value::Null if types.contains(&"null") => {}
            Value::Bool(_) if types.contains(&"boolean") => {}
            Value::Unsigned(_) | Value::Signed(_) | Value::Float(_)
                if types.contains(&"integer") =>
            {
                self.integer(&node.value, schema, path, optional);
            }
            Value::String(text) if types.contains(&"string") => {
                if let Some(Json::Array(allowed)) = schema.get("enum") {
                    let allowed: Vec<&str> = allowed.iter().filter_map(Json::as_str).collect();
                    self.one_of(text, &allowed, path, optional);
                }
            }
            Value::Array(items) if types.contains(&"array") => {
                if let Some(item_schema) = schema.get("items") {
                    for (index, item) in items.iter().enumerate() {
                        self.value(item, item_schema, &join_index(path, index), optional);
                    }
                }
            }
            Value::Object(entries) if types.contains(&"object") => {
                self.object(entries, schema, path, optional);
            }
            found => self.wrong_type(found, &types, path, optional),
        }
    }

    fn object(
        &mut self,
        entries: &[Entry],
        schema: &'s Map<String, Json>,
        path: &str,
        optional: &str,
    ) {
        let empty = Map::new();
        let fields = schema.get("properties").and_then(Json::as_object);
        let known = fields.unwrap_or(&empty);
        let mut required: Vec<&str> = strings(schema.get("required"));
        if let Some(Json::Array(choices)) = schema.get("oneOf") {
            // A field under two spellings: see `FIELD_ALIASES`.
            let spellings: Vec<&str> = choices
                .iter()
                .flat_map(|choice| strings(choice.get("required")))
                .collect();
            let given = spellings
                .iter()
                .filter(|name| entries.iter().any(|entry| entry.key == **name))
                .count();
            if given == 0 {
                required.extend(spellings.first());
            }
        }
        for (alias, name) in FIELD_ALIASES {
            if known.contains_key(alias)
                && entries.iter().any(|entry| entry.key == alias)
                && entries.iter().any(|entry| entry.key == name)
            {
                let message = format!("`{alias}` and `{name}` are the same field");
                let hint = format!("keep `{name}`");
                self.report(
                    ProblemCode::DuplicateKey,
                    &join_key(path, alias),
                    message,
                    Some(hint),
                    Part::Key,
                    optional,
                );
            }
        }
        for name in &required {
            if !entries.iter().any(|entry| entry.key == *name) {
                let child = join_key(path, name);
                let message = "is required and missing".to_owned();
                self.report(
                    ProblemCode::MissingField,
                    &child,
                    message,
                    None,
                    Part::Value,
                    optional,
                );
            }
        }
        for entry in entries {
            let child = join_key(path, &entry.key);
            if let Some(field) = fields.and_then(|fields| fields.get(&entry.key)) {
                let needed = required.contains(&entry.key.as_str());
                if needed && entry.value.value == Value::Null {
                    let message = "is required and null".to_owned();
                    self.report(
                        ProblemCode::MissingField,
                        &child,
                        message,
                        None,
                        Part::Value,
                        optional,
                    );
                    continue;
                }
                let around = if needed { optional } else { &child };
                self.value(&entry.value, field, &child, around);
            } else {
                match schema.get("additionalProperties") {
                    Some(values @ Json::Object(_)) => {
                        self.value(&entry.value, values, &child, &child)
                    }
                    Some(Json::Bool(false)) => self.unknown_field(entry, known, &child),
                    _ => {}
                }
            }
        }
    }

    fn variants(&mut self, node: &Node, variants: &'s [Json], path: &str, optional: &str) {
        let names: Vec<&str> = variants
            .iter()
            .flat_map(|variant| {
                let one = variant.get("const").and_then(Json::as_str);
                one.into_iter().chain(strings(variant.get("enum")))
            })
            .collect();
        let objects: Vec<&'s Map<String, Json>> = variants
            .iter()
            .filter_map(|variant| variant.get("properties").and_then(Json::as_object))
            .collect();
        let tag = objects.iter().find_map(|fields| {
            fields
                .iter()
                .find(|(_, field)| field.get("const").is_some())
                .map(|(name, _)| name.as_str())
        });
        match (&node.value, tag) {
            (Value::String(text), _) if !names.is_empty() => {
                let mut allowed = names.clone();
                if !names.contains(&text.as_str()) {
                    allowed.extend(
                        objects
                            .iter()
                            .filter_map(|fields| fields.keys().next())
                            .map(String::as_str),
                    );
                    if objects.iter().any(|fields| fields.contains_key(text)) {
                        let message =
                            format!("`{}` has fields and is written as an object", shown(text));
                        let hint = format!("write `{{\"{text}\": {{…}}}}`");
                        self.report(
                            ProblemCode::WrongType,
                            path,
                            message,
                            Some(hint),
                            Part::Value,
                            optional,
                        );
                        return;
                    }
                }
                self.one_of(text, &allowed, path, optional);
            }
            (Value::Object(entries), Some(tag)) => {
                let tag_path = join_key(path, tag);
                match entries
                    .iter()
                    .find(|entry| entry.key == tag)
                    .map(|entry| &entry.value.value)
                {
                    None | Some(Value::Null) => {
                        let message = "is required and missing".to_owned();
                        self.report(
                            ProblemCode::MissingField,
                            &tag_path,
                            message,
                            None,
                            Part::Value,
                            optional,
                        );
                    }
                    Some(Value::String(kind)) => {
                        let tag_of = |variant: &'s Json| {
                            variant.get("properties")?.get(tag)?.get("const")?.as_str()
                        };
                        match variants
                            .iter()
                            .find(|variant| tag_of(variant) == Some(kind))
                        {
                            Some(Json::Object(variant)) => {
                                self.object(entries, variant, path, optional)
                            }
                            _ => {
                                let allowed: Vec<&str> =
                                    variants.iter().filter_map(tag_of).collect();
                                self.one_of(kind, &allowed, &tag_path, optional);
                            }
                        }
                    }
                    Some(other) => self.wrong_type(other, &["string"], &tag_path, optional),
                }
            }
            (Value::Object(entries), None) if !objects.is_empty() => {
                let [Entry { key, value, .. }] = entries.as_slice() else {
                    let message = "is an object with exactly one field, the kind".to_owned();
                    self.report(
                        ProblemCode::WrongType,
                        path,
                        message,
                        None,
                        Part::Value,
                        optional,
                    );
                    return;
                };
                let child = join_key(path, key);
                match objects.iter().find_map(|fields| fields.get(key)) {
                    Some(content) => self.value(value, content, &child, optional),
                    None if names.contains(&key.as_str()) => {
                        let message = format!("`{key}` has no fields and is written as a string");
                        let hint = Some(format!("write \"{key}\""));
                        self.report(
                            ProblemCode::WrongType,
                            path,
                            message,
                            hint,
                            Part::Value,
                            optional,
                        );
                    }
                    None => {
                        let mut allowed = names;
                        allowed.extend(
                            objects
                                .iter()
                                .filter_map(|fields| fields.keys().next())
                                .map(String::as_str),
                        );
                        self.one_of(key, &allowed, path, optional);
                    }
                }
            }
            (found, _) => {
                let mut types = Vec::new();
                if !names.is_empty() {
                    types.push("string");
                }
                if !objects.is_empty() {
                    types.push("object");
                }
                self.wrong_type(found, &types, path, optional);
            }
        }
    }

    fn integer(&mut self, value: &Value, schema: &Map<String, Json>, path: &str, optional: &str) {
        let most = match schema.get("format").and_then(Json::as_str) {
            Some("uint16") => u64::from(u16::MAX),
            Some("uint32") => u64::from(u32::MAX),
            _ => u64::MAX,
        };
        let (code, found) = match value {
            Value::Unsigned(value) if *value <= most => return,
            Value::Unsigned(value) => (ProblemCode::OutOfRange, value.to_string()),
            Value::Signed(value) => (ProblemCode::OutOfRange, value.to_string()),
            Value::Float(value) => (ProblemCode::WrongType, format!("{value:?}")),
            _ => return,
        };
        let message = format!("has to be an integer from 0 to {most}, found {found}");
        let hint = matches!(value, Value::Float(_))
            .then(|| "write it without fraction and exponent".to_owned());
        self.report(code, path, message, hint, Part::Value, optional);
    }

    fn one_of(&mut self, text: &str, allowed: &[&str], path: &str, optional: &str) {
        if allowed.contains(&text) {
            return;
        }
        let message = format!("`{}` is not a known value", shown(text));
        let hint = match nearest(text, allowed.iter().copied()) {
            Some(near) => format!("did you mean `{near}`? known: {}", allowed.join(", ")),
            None => format!("known: {}", allowed.join(", ")),
        };
        self.report(
            ProblemCode::UnknownValue,
            path,
            message,
            Some(hint),
            Part::Value,
            optional,
        );
    }

    fn wrong_type(&mut self, found: &Value, types: &[&str], path: &str, optional: &str) {
        let names: Vec<&str> = types
            .iter()
            .map(|name| match *name {
                "null" => "null",
                "boolean" => "a boolean",
                "integer" => "an integer",
                "string" => "a string",
                "array" => "an array",
                _ => "an object",
            })
            .collect();
        let message = format!("has to be {}, found {}", names.join(" or "), found.kind());
        let scalar = matches!(
            found,
            Value::Bool(_) | Value::Unsigned(_) | Value::Signed(_) | Value::Float(_)
        );
        let hint = if types.contains(&"string") && scalar {
            Some("put it in quotes".to_owned())
        } else if *found == Value::Null {
            Some("leave the field out".to_owned())
        } else {
            None
        };
        self.report(
            ProblemCode::WrongType,
            path,
            message,
            hint,
            Part::Value,
            optional,
        );
    }

    fn unknown_field(&mut self, entry: &Entry, known: &Map<String, Json>, path: &str) {
        let message = "is not a known field".to_owned();
        let names = || known.keys().map(String::as_str);
        let hint = match nearest(&entry.key, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known: {}", names().collect::<Vec<_>>().join(", ")),
        };
        self.report(
            ProblemCode::UnknownField,
            path,
            message,
            Some(hint),
            Part::Key,
            path,
        );
    }

    fn report(
        &mut self,
        code: ProblemCode,
        path: &str,
        message: String,
        hint: Option<String>,
        part: Part,
        optional: &str,
    ) {
        if self.findings.len() >= MAX_PROBLEMS {
            return;
        }
        let untyped =
            leads_to(FILESYSTEM, path) && (code == ProblemCode::UnknownField || path == FILESYSTEM);
        let problem = if untyped {
            Problem::error(
                ProblemCode::NotEnforced,
                path,
                "this form of file system authority is enforced by nobody",
                Some("write `mounts: [{source, target, access: ro|rw}]`".to_owned()),
            )
        } else {
            Problem::error(code, path, message, hint)
        };
        let optional = if untyped { FILESYSTEM } else { optional }.to_owned();
        self.findings.push(Finding {
            problem,
            part,
            optional,
        });
    }

    fn resolve(&self, schema: &'s Json) -> &'s Json {
        let mut schema = schema;
        while let Some(Json::String(reference)) = schema.get("$ref") {
            match reference
                .strip_prefix('#')
                .and_then(|pointer| self.schema.pointer(pointer))
            {
                Some(target) => schema = target,
                None => break,
            }
        }
        schema
    }
}

fn is_null_schema(schema: &Json) -> bool {
    schema.get("type").is_some_and(|kind| kind == "null")
}

fn strings(list: Option<&Json>) -> Vec<&str> {
    list.and_then(Json::as_array)
        .map(|items| items.iter().filter_map(Json::as_str).collect())
        .unwrap_or_default()
}

/// Longest text that is compared with known names.
const MAX_COMPARED_BYTES: usize = 64;
/// Similarity (Jaro-Winkler) from which a name is proposed: a wrong or swapped letter, a missing
/// or additional `s`, another case.
const SIMILAR: f64 = 0.85;

/// The known name that `text` most resembles.
fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if text.len() > MAX_COMPARED_BYTES {
        return None;
    }
    let text = text.to_ascii_lowercase();
    known
        .map(|name| {
            (
                strsim::jaro_winkler(&text, &name.to_ascii_lowercase()),
                name,
            )
        })
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}
