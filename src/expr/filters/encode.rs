//! Filters to and from JSON, YAML, base64 and hashes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use base64::engine::general_purpose::URL_SAFE;
use md5::Md5;
use sha1::Digest;
use sha1::Sha1;
use sha2::Sha224;
use sha2::Sha256;
use sha2::Sha384;
use sha2::Sha512;

use super::Args;
use super::Parts;
use super::Row;
use crate::expr::emit;
use crate::expr::emit::JsonStyle;
use crate::expr::emit_yaml;
use crate::expr::emit_yaml::YamlStyle;
use crate::expr::error::EvalError;
use crate::expr::lookups;
use crate::expr::runtime::Evaluated;
use crate::expr::value::Marks;
use crate::expr::value::Value;
use crate::expr::world::World;
use crate::source::FileId;
use crate::source::yaml;

pub(super) const ROWS: &[Row] = &[
    Row("to_json", Parts::Read, |_, input, args| json(&input, args, JsonStyle::default())),
    Row("tojson", Parts::Read, |_, input, args| {
        let indent = args.size("indent")?;
        // Jinja's own writes for HTML pages.
        let text = emit::json(&input, &JsonStyle { indent, sort_keys: true, ..JsonStyle::default() });
        let text = text
            .replace('<', "\\u003c")
            .replace('>', "\\u003e")
            .replace('&', "\\u0026")
            .replace('\'', "\\u0027");
        Ok(Value::from(text))
    }),
    Row("to_nice_json", Parts::Read, |_, input, args| {
        let style = JsonStyle {
            indent: Some(4),
            sort_keys: true,
            item_separator: ",".into(),
            ..JsonStyle::default()
        };
        json(&input, args, style)
    }),
    Row("from_json", Parts::Read, |_, input, args| {
        args.named("profile");
        let text = emit::to_text(&input);
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(&text);
        let parsed = parsed.map_err(|error| EvalError::value(format!("this is no JSON: {error}")))?;
        Ok(Value::from_json(&parsed))
    }),
    Row("to_yaml", Parts::Read, |_, input, args| yaml_text(&input, args, YamlStyle::default())),
    Row("to_nice_yaml", Parts::Read, |_, input, args| {
        yaml_text(&input, args, YamlStyle { indent: 4, block: Some(true), ..YamlStyle::default() })
    }),
    Row("from_yaml", Parts::Read, |_, input, _| match input.as_str() {
        Some(text) => Ok(documents(text)?.into_iter().next().unwrap_or_default()),
        None => Ok(input),
    }),
    Row("from_yaml_all", Parts::Read, |_, input, _| match input.as_str() {
        Some(text) => Ok(documents(text)?.into()),
        None => Ok(input),
    }),
    Row("b64encode", Parts::Read, |_, input, args| {
        args.next("encoding");
        let is_url_safe = args.flag("urlsafe").unwrap_or(false);
        let text = emit::to_text(&input);
        Ok(Value::from(if is_url_safe { URL_SAFE.encode(text) } else { STANDARD.encode(text) }))
    }),
    Row("b64decode", Parts::Read, base64_decode),
    Row("hash", Parts::Read, |_, input, args| {
        let kind = args.text("hashtype").unwrap_or_else(|| "sha1".into());
        digest(&emit::to_text(&input), &kind)
    }),
    Row("checksum", Parts::Read, |_, input, _| digest(&emit::to_text(&input), "sha1")),
    Row("sha1", Parts::Read, |_, input, _| digest(&emit::to_text(&input), "sha1")),
    Row("md5", Parts::Read, |_, input, _| digest(&emit::to_text(&input), "md5")),
    Row("to_uuid", Parts::Read, uuid),
    Row("strftime", Parts::Read, |world, input, args| {
        let seconds = args.next("second").filter(|v| !v.is_none());
        args.next("utc");
        lookups::format_time(world, &emit::to_text(&input), seconds.as_ref())
    }),
];

fn json(input: &Value, args: &mut Args, mut style: JsonStyle) -> Evaluated<Value> {
    if let Some(indent) = args.next("indent") {
        style.indent = indent.as_int().and_then(|n| usize::try_from(n).ok());
        if style.indent.is_some() && style.item_separator == ", " {
            style.item_separator = ",".into();
        }
    }
    style.sort_keys = args.flag("sort_keys").unwrap_or(style.sort_keys);
    style.ascii = args.named_flag("ensure_ascii").unwrap_or(style.ascii);
    if let Some(separators) = args.named("separators") {
        match separators.as_list() {
            Some([item, key]) => {
                style.item_separator = emit::to_text(item);
                style.key_separator = emit::to_text(key);
            }
            _ => return Err(EvalError::value("`separators` is a pair of texts").into()),
        }
    }
    for known in [
        "vault_to_text",
        "preprocess_unsafe",
        "profile",
        "default",
        "skipkeys",
        "allow_nan",
        "check_circular",
    ] {
        args.named(known);
    }
    Ok(Value::from(emit::json(input, &style)))
}

fn yaml_text(input: &Value, args: &mut Args, mut style: YamlStyle) -> Evaluated<Value> {
    style.indent = args.size("indent")?.unwrap_or(style.indent);
    if let Some(width) = args.named("width").and_then(|v| v.as_int()) {
        style.width = usize::try_from(width).unwrap_or(usize::MAX);
    }
    style.sort_keys = args.named_flag("sort_keys").unwrap_or(style.sort_keys);
    if let Some(flow) = args.named("default_flow_style") {
        style.block = flow.truth().filter(|_| !flow.is_none()).map(|flow| !flow);
    }
    style.explicit_start = args.named_flag("explicit_start").unwrap_or(false);
    style.explicit_end = args.named_flag("explicit_end").unwrap_or(false);
    for known in ["allow_unicode", "dump_vault_tags"] {
        args.named(known);
    }
    Ok(Value::from(emit_yaml::yaml(input, &style)))
}

fn documents(text: &str) -> Result<Vec<Value>, EvalError> {
    let (nodes, diagnostics) = yaml::read(FileId(u32::MAX), text);
    if let Some(problem) =
        diagnostics.sorted().into_iter().find(|d| d.severity == crate::source::Severity::Error)
    {
        return Err(EvalError::value(format!("this is no YAML: {}", problem.message)));
    }
    Ok(nodes.iter().map(|node| without_marks(Value::from_node(node))).collect())
}

/// What was read from a text has no place in a file, and is not what a user wrote as a template.
fn without_marks(value: Value) -> Value {
    value.with_marks(Marks::default())
}

fn base64_decode(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    args.next("encoding");
    let is_url_safe = args.flag("urlsafe").unwrap_or(false);
    let text: String = emit::to_text(&input).chars().filter(|c| !c.is_whitespace()).collect();
    let bytes = if is_url_safe { URL_SAFE.decode(&text) } else { STANDARD.decode(&text) };
    let bytes = bytes.map_err(|error| EvalError::value(format!("this is no base64: {error}")))?;
    Ok(Value::from(String::from_utf8_lossy(&bytes).into_owned()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest(text: &str, kind: &str) -> Evaluated<Value> {
    let hashed = match kind {
        "sha1" => hex(&Sha1::digest(text)),
        "md5" => hex(&Md5::digest(text)),
        "sha224" => hex(&Sha224::digest(text)),
        "sha256" => hex(&Sha256::digest(text)),
        "sha384" => hex(&Sha384::digest(text)),
        "sha512" => hex(&Sha512::digest(text)),
        other => return Err(EvalError::value(format!("there is no hash `{other}`")).into()),
    };
    Ok(Value::from(hashed))
}

/// UUID version 5 in Ansible's namespace.
fn uuid(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let namespace = args.text("namespace").unwrap_or_else(|| "361E6D51-FAEC-444A-9079-341386DA8E2E".into());
    let digits: String = namespace.chars().filter(|c| *c != '-').collect();
    let number = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32);
    let number = number.ok_or_else(|| EvalError::value(format!("'{namespace}' is no UUID")))?;
    let mut hasher = Sha1::new();
    hasher.update(number.to_be_bytes());
    hasher.update(emit::to_text(&input));
    let mut id = [0_u8; 16];
    for (to, from) in id.iter_mut().zip(hasher.finalize().iter()) {
        *to = *from;
    }
    id[6] = id[6] & 0x0f | 0x50;
    id[8] = id[8] & 0x3f | 0x80;
    let text = hex(&id);
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    Ok(Value::from([part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")))
}
