//! What callers ask for: values of templates, verdicts of conditions, texts of files.

use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;

use crate::expr::emit;
use crate::expr::error::ErrorKind;
use crate::expr::error::EvalError;
use crate::expr::eval::Eval;
use crate::expr::parse;
use crate::expr::parse::Whitespace;
use crate::expr::runtime::Stop;
use crate::expr::scope::Lookups;
use crate::expr::scope::Scope;
use crate::expr::value::Data;
use crate::expr::value::Value;
use crate::expr::world;
use crate::expr::world::World;

/// Evaluates all templates in a value: text that is trusted, and lists and dicts of such, at any depth.
///
/// A text that is one expression keeps the expression's type. Parts that are `omit` are left out; a value that is
/// `omit` as a whole stays so, for the caller to leave out. What is unknown stays unknown.
///
/// # Errors
/// Something used is undefined or recursive, a filter or lookup fails, or the text is no template.
pub fn template(value: &Value, scope: &dyn Scope, lookups: &dyn Lookups) -> Result<Value, EvalError> {
    let world = World::new(scope, lookups);
    match world.settle(value.clone()) {
        Ok(settled) => world::without_omit(settled),
        Err(stop) => unknown(stop),
    }
    .map_err(|error| error.at(value.marks.origin))
}

fn unknown(stop: Stop) -> Result<Value, EvalError> {
    match stop {
        Stop::Unknown(reason) => Ok(Value::unknown(reason)),
        Stop::Error(error) => Err(*error),
    }
}

/// Evaluates a bare expression, such as a condition or `until`, to its value.
///
/// # Errors
/// As [`template`].
pub fn expression(text: &str, scope: &dyn Scope, lookups: &dyn Lookups) -> Result<Value, EvalError> {
    let world = World::new(scope, lookups);
    match bare(text, &world) {
        Ok(value) => world::without_omit(value),
        Err(stop) => unknown(stop),
    }
}

fn bare(text: &str, world: &World) -> Result<Value, Stop> {
    let source = parse::raw_backslashes_of_expression(text);
    let tree = parse::expression(&source)?;
    let mut eval = Eval::new(world);
    eval.literals_are_templates = true;
    let object = eval.expr(&tree);
    let value = object.and_then(|object| eval.settled(object));
    eval.forget();
    value
}

/// The verdict of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Yes,
    No,
    /// It depends on something that plan and check did not do.
    Unknown {
        reason: Arc<str>,
    },
}

impl Verdict {
    pub fn is_yes(&self) -> bool {
        *self == Verdict::Yes
    }
}

/// Evaluates `when`, `changed_when`, `failed_when`, `until` or one line of `assert`.
///
/// A text is an expression whose result must be true or false. A list is true if all its conditions are; they are
/// evaluated in order up to the first that is false.
///
/// # Errors
/// As [`template`]; besides, a result that is neither true nor false is refused.
pub fn condition(value: &Value, scope: &dyn Scope, lookups: &dyn Lookups) -> Result<Verdict, EvalError> {
    let result = match &value.data {
        Data::List(conditions) => return all_of(conditions, scope, lookups),
        Data::Str(text) if text.trim().is_empty() => Err(EvalError::value("the condition is empty")),
        Data::Str(text) => condition_text(text, scope, lookups),
        _ => Ok(value.clone()),
    };
    let result = result.map_err(|error| error.at(value.marks.origin))?;
    match &result.data {
        Data::Bool(true) => Ok(Verdict::Yes),
        Data::Bool(false) => Ok(Verdict::No),
        Data::Unknown { reason } => Ok(Verdict::Unknown { reason: reason.clone() }),
        _ => Err(not_boolean(value, &result).at(value.marks.origin)),
    }
}

fn condition_text(text: &str, scope: &dyn Scope, lookups: &dyn Lookups) -> Result<Value, EvalError> {
    let trimmed = text.trim();
    let is_wrapped = trimmed.starts_with("{{") && trimmed.ends_with("}}") || trimmed.contains("{%");
    if is_wrapped {
        template(&Value::template(trimmed), scope, lookups)
    } else {
        expression(text, scope, lookups)
    }
}

fn all_of(conditions: &[Value], scope: &dyn Scope, lookups: &dyn Lookups) -> Result<Verdict, EvalError> {
    let mut verdict = Verdict::Yes;
    for one in conditions {
        match condition(one, scope, lookups) {
            Ok(Verdict::Yes) => {}
            Ok(Verdict::No) => return Ok(Verdict::No),
            Ok(unknown) if verdict.is_yes() => verdict = unknown,
            Ok(_) => {}
            // What stands behind an unknown condition may not be evaluated at all in the end.
            Err(_) if !verdict.is_yes() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(verdict)
}

fn not_boolean(condition: &Value, result: &Value) -> EvalError {
    let shown = emit::repr(&result.redacted());
    let shown: String = shown.chars().take(60).collect();
    let message = format!("a condition must be true or false, and this is {shown} ({})", result.type_name());
    let text = condition.as_str().unwrap_or("…").trim();
    let hint = match result.data {
        Data::Str(_) => format!("write `{text} | bool`, or `{text} | length > 0`"),
        Data::Int(_) | Data::Float(_) => format!("write `{text} != 0`, or `{text} | bool`"),
        Data::List(_) | Data::Dict(_) => format!("write `{text} | length > 0`"),
        Data::None => format!("write `{text} is not none`"),
        _ => "compare it with something".to_owned(),
    };
    EvalError::new(ErrorKind::Value, message).hint(hint)
}

/// How a template file is read and what its marks are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileOptions {
    pub whitespace: Whitespace,
    /// Marks other than `{{ }}`, `{% %}` and `{# #}`.
    pub marks: Option<TemplateMarks>,
}

/// Pairs of marks: of expressions, statements and comments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateMarks {
    pub variable: (String, String),
    pub block: (String, String),
    pub comment: (String, String),
}

impl Default for TemplateMarks {
    fn default() -> TemplateMarks {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        TemplateMarks { variable: pair("{{", "}}"), block: pair("{%", "%}"), comment: pair("{#", "#}") }
    }
}

/// Renders the text of a template file: what the `template` module writes. The answer is text, or unknown.
///
/// A first line `#jinja2: lstrip_blocks: True, trim_blocks: False` changes the options and is left out.
///
/// # Errors
/// As [`template`].
pub fn render_file(
    text: &str,
    scope: &dyn Scope,
    lookups: &dyn Lookups,
    options: &FileOptions,
) -> Result<Value, EvalError> {
    let unix = text.replace("\r\n", "\n");
    let (options, body) = header(&unix, options.clone())?;
    let source = parse::raw_newlines(body);
    let tree = match &options.marks {
        None => parse::template(&source, options.whitespace)?,
        Some(marks) => parse::template_with(&source, options.whitespace, syntax(marks)?)?,
    };
    let world = World::new(scope, lookups);
    let result = Eval::new(&world).native(&tree).and_then(|value| world::usable(world.settle(value)?));
    let value = result.or_else(unknown)?;
    let is_secret = value.has_secret();
    let text = match &value.data {
        Data::Unknown { .. } => return Ok(value),
        Data::Omit => return Err(EvalError::value("the whole template is `omit`")),
        Data::None => String::new(),
        // Only text gets the template's last newline; one lone expression of another type is written bare.
        Data::Str(text) => parse::with_trailing_newlines(body, text.to_string()),
        _ => emit::to_text(&value),
    };
    Ok(if is_secret { Value::from(text).secret() } else { Value::from(text) })
}

fn syntax(marks: &TemplateMarks) -> Result<SyntaxConfig, EvalError> {
    let TemplateMarks { variable, block, comment } = marks;
    SyntaxConfig::builder()
        .variable_delimiters(variable.0.clone(), variable.1.clone())
        .block_delimiters(block.0.clone(), block.1.clone())
        .comment_delimiters(comment.0.clone(), comment.1.clone())
        .build()
        .map_err(|error| {
            EvalError::new(ErrorKind::Syntax, format!("the template's marks are not usable: {error}"))
        })
}

/// Takes the options of a `#jinja2:` line out of the text.
pub(crate) fn header(text: &str, mut options: FileOptions) -> Result<(FileOptions, &str), EvalError> {
    let Some(rest) = text.strip_prefix("#jinja2:") else { return Ok((options, text)) };
    let (line, body) = rest.split_once('\n').unwrap_or((rest, ""));
    for pair in line.split(',') {
        let wrong =
            || EvalError::new(ErrorKind::Syntax, format!("`#jinja2:` has no option `{}`", pair.trim()));
        let (key, value) = pair.split_once(':').ok_or_else(wrong)?;
        let value = value.trim().trim_matches(['\'', '"']);
        let flag = matches!(value, "True" | "true");
        let key = key.trim();
        if let Some(mark) = mark_named(key) {
            *mark(options.marks.get_or_insert_with(TemplateMarks::default)) = value.to_owned();
            continue;
        }
        match key {
            "trim_blocks" => options.whitespace.trim_blocks = flag,
            "lstrip_blocks" => options.whitespace.lstrip_blocks = flag,
            "keep_trailing_newline" => options.whitespace.keep_trailing_newline = flag,
            "newline_sequence" => {}
            _ => return Err(wrong()),
        }
    }
    Ok((options, body))
}

/// Returns the place of the mark that an option of a `#jinja2:` line sets.
fn mark_named(option: &str) -> Option<fn(&mut TemplateMarks) -> &mut String> {
    Some(match option {
        "variable_start_string" => |marks| &mut marks.variable.0,
        "variable_end_string" => |marks| &mut marks.variable.1,
        "block_start_string" => |marks| &mut marks.block.0,
        "block_end_string" => |marks| &mut marks.block.1,
        "comment_start_string" => |marks| &mut marks.comment.0,
        "comment_end_string" => |marks| &mut marks.comment.1,
        _ => return None,
    })
}

#[cfg(test)]
#[path = "evaluate_tests.rs"]
mod tests;
