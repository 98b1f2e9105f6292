//! What a template mentions: variables it can reach, and filters, tests and lookups that must exist.

use std::collections::BTreeSet;

use minijinja::machinery::ast;

use crate::expr::error::ErrorKind;
use crate::expr::error::EvalError;
use crate::expr::eval::FUNCTIONS;
use crate::expr::evaluate;
use crate::expr::evaluate::FileOptions;
use crate::expr::filters;
use crate::expr::jinja_tests;
use crate::expr::lookups;
use crate::expr::methods;
use crate::expr::parse;
use crate::expr::parse::Whitespace;
use crate::expr::value::Data;
use crate::expr::value::Value;
use crate::source::Diagnostic;
use crate::source::Diagnostics;
use crate::source::Span;
use crate::source::suggest;

/// Returns the variables that a template can reach directly. `vars` among them means: any, by a computed name.
///
/// # Errors
/// The text is no template.
pub fn names(text: &str) -> Result<BTreeSet<String>, EvalError> {
    if !parse::has_markup(text) {
        return Ok(BTreeSet::new());
    }
    let source = parse::raw_backslashes(text);
    let tree = parse::template(&source, Whitespace::default())?;
    Ok(Walk::over_statement(&tree).names)
}

/// Checks a template: its syntax, and that every filter, test, lookup and method in it exists.
pub fn check(text: &str, span: Option<Span>) -> Diagnostics {
    if !parse::has_markup(text) {
        return Diagnostics::default();
    }
    let source = parse::raw_backslashes(text);
    match parse::template(&source, Whitespace::default()) {
        Ok(tree) => Walk::over_statement(&tree).diagnostics(text, span),
        Err(error) => problem(&error, span),
    }
}

/// Checks a bare expression as [`check`] does.
pub fn check_expression(text: &str, span: Option<Span>) -> Diagnostics {
    if text.trim_start().starts_with("{{") || text.contains("{%") {
        return check(text, span);
    }
    let source = parse::raw_backslashes_of_expression(text);
    match parse::expression(&source) {
        Ok(tree) => {
            let mut walk = Walk::default();
            walk.expr(&tree);
            walk.diagnostics(text, span)
        }
        Err(error) => problem(&error, span),
    }
}

/// Checks the text of a template file as [`check`] does.
pub fn check_file(text: &str, span: Option<Span>) -> Diagnostics {
    let unix = text.replace("\r\n", "\n");
    let parsed = evaluate::header(&unix, FileOptions::default())
        .and_then(|(options, body)| Ok((parse::template(body, options.whitespace)?, body)));
    match parsed {
        Ok((tree, body)) => Walk::over_statement(&tree).diagnostics(body, span),
        Err(error) => problem(&error, span),
    }
}

/// Checks all trusted text in a value as [`check`] does, each at its own place.
pub fn check_value(value: &Value) -> Diagnostics {
    let mut all = Diagnostics::default();
    collect_problems(value, &mut all);
    all
}

fn collect_problems(value: &Value, all: &mut Diagnostics) {
    match &value.data {
        Data::Str(text) if value.marks.trusted => all.extend(check(text, value.marks.origin)),
        Data::List(items) => items.iter().for_each(|v| collect_problems(v, all)),
        Data::Dict(entries) => entries.values().for_each(|v| collect_problems(v, all)),
        _ => {}
    }
}

/// Returns whether there is a lookup of that name, short or fully qualified.
pub fn is_lookup(name: &str) -> bool {
    lookups::names().any(|known| known == filters::short_name(name))
}

fn problem(error: &EvalError, span: Option<Span>) -> Diagnostics {
    let code = if error.kind == ErrorKind::Syntax { "template-syntax" } else { "template" };
    let mut diagnostic = Diagnostic::error(code, format!("this template cannot be read: {}", error.message));
    diagnostic.span = span;
    diagnostic.hint.clone_from(&error.hint);
    diagnostic.into()
}

/// Something that is named and does not exist.
struct Stranger<'a> {
    what: &'static str,
    name: &'a str,
    hint: Option<String>,
}

#[derive(Default)]
struct Walk<'a> {
    names: BTreeSet<String>,
    /// Names that the template defines, in the blocks around the place of the walk.
    bound: Vec<BTreeSet<&'a str>>,
    strangers: Vec<Stranger<'a>>,
}

impl<'a> Walk<'a> {
    fn over_statement(tree: &'a ast::Stmt<'a>) -> Walk<'a> {
        let mut walk = Walk { bound: vec![BTreeSet::new()], ..Walk::default() };
        walk.statement(tree);
        walk
    }

    fn diagnostics(self, text: &str, span: Option<Span>) -> Diagnostics {
        let mut all = Diagnostics::default();
        for Stranger { what, name, hint } in self.strangers {
            let code = match what {
                "filter" => "unknown-filter",
                "test" => "unknown-test",
                "method" => "unknown-method",
                "statement" => "unknown-statement",
                _ => "unknown-lookup",
            };
            let mut diagnostic = Diagnostic::error(code, format!("there is no {what} `{name}`"));
            diagnostic.span = span.map(|span| place(text, name, span));
            diagnostic.hint = hint;
            all.push(diagnostic);
        }
        all
    }

    fn stranger(&mut self, what: &'static str, name: &'a str, known: impl Iterator<Item = &'static str>) {
        let hint = suggest::did_you_mean(filters::short_name(name), known);
        self.strangers.push(Stranger { what, name, hint });
    }

    fn statements(&mut self, body: &'a [ast::Stmt<'a>]) {
        body.iter().for_each(|statement| self.statement(statement));
    }

    fn inside(&mut self, work: impl FnOnce(&mut Walk<'a>)) {
        self.bound.push(BTreeSet::new());
        work(self);
        self.bound.pop();
    }

    fn bind(&mut self, target: &'a ast::Expr<'a>) {
        match target {
            ast::Expr::Var(var) => {
                if let Some(frame) = self.bound.last_mut() {
                    frame.insert(var.id);
                }
            }
            ast::Expr::List(list) => list.items.iter().for_each(|item| self.bind(item)),
            other => self.expr(other),
        }
    }

    fn statement(&mut self, statement: &'a ast::Stmt<'a>) {
        match statement {
            ast::Stmt::Template(template) => self.statements(&template.children),
            ast::Stmt::EmitExpr(emit) => self.expr(&emit.expr),
            ast::Stmt::EmitRaw(_) => {}
            ast::Stmt::IfCond(branch) => {
                self.expr(&branch.expr);
                self.statements(&branch.true_body);
                self.statements(&branch.false_body);
            }
            ast::Stmt::ForLoop(each) => {
                self.expr(&each.iter);
                self.inside(|walk| {
                    walk.bind(&each.target);
                    if let Some(frame) = walk.bound.last_mut() {
                        frame.insert("loop");
                    }
                    each.filter_expr.iter().for_each(|filter| walk.expr(filter));
                    walk.statements(&each.body);
                });
                self.inside(|walk| walk.statements(&each.else_body));
            }
            ast::Stmt::Set(set) => {
                self.expr(&set.expr);
                self.bind(&set.target);
            }
            ast::Stmt::SetBlock(set) => {
                self.inside(|walk| walk.statements(&set.body));
                set.filter.iter().for_each(|filter| self.expr(filter));
                self.bind(&set.target);
            }
            ast::Stmt::WithBlock(with) => self.inside(|walk| {
                for (target, expr) in &with.assignments {
                    walk.expr(expr);
                    walk.bind(target);
                }
                walk.statements(&with.body);
            }),
            ast::Stmt::FilterBlock(filter) => {
                self.expr(&filter.filter);
                self.inside(|walk| walk.statements(&filter.body));
            }
            ast::Stmt::Macro(declaration) => {
                if let Some(frame) = self.bound.last_mut() {
                    frame.insert(declaration.name);
                }
                self.in_macro(declaration);
            }
            ast::Stmt::CallBlock(call) => {
                self.call(&call.call);
                self.in_macro(&call.macro_decl);
            }
            ast::Stmt::AutoEscape(escape) => self.statements(&escape.body),
            ast::Stmt::Block(block) => self.inside(|walk| walk.statements(&block.body)),
            ast::Stmt::Do(_) => self.missing("do"),
            ast::Stmt::Include(_) => self.missing("include"),
            ast::Stmt::Import(_) | ast::Stmt::FromImport(_) => self.missing("import"),
            ast::Stmt::Extends(_) => self.missing("extends"),
        }
    }

    fn missing(&mut self, name: &'a str) {
        let hint = if name == "do" { "write `{% set _ = … %}`" } else { "put the text into this file" };
        self.strangers.push(Stranger { what: "statement", name, hint: Some(hint.to_owned()) });
    }

    fn in_macro(&mut self, declaration: &'a ast::Macro<'a>) {
        declaration.defaults.iter().for_each(|expr| self.expr(expr));
        self.inside(|walk| {
            declaration.args.iter().for_each(|arg| walk.bind(arg));
            if let Some(frame) = walk.bound.last_mut() {
                frame.extend(["varargs", "kwargs", "caller"]);
            }
            walk.statements(&declaration.body);
        });
    }

    fn args(&mut self, args: &'a [ast::CallArg<'a>]) {
        for arg in args {
            match arg {
                ast::CallArg::Pos(expr)
                | ast::CallArg::Kwarg(_, expr)
                | ast::CallArg::PosSplat(expr)
                | ast::CallArg::KwargSplat(expr) => self.expr(expr),
            }
        }
    }

    fn is_bound(&self, name: &str) -> bool {
        self.bound.iter().any(|frame| frame.contains(name))
    }

    fn expr(&mut self, expr: &'a ast::Expr<'a>) {
        match expr {
            ast::Expr::Var(var) => {
                if !self.is_bound(var.id) && !FUNCTIONS.contains(&var.id) && var.id != "omit" {
                    self.names.insert(var.id.to_owned());
                }
            }
            ast::Expr::Const(constant) => {
                // Conditions evaluate templates in literals.
                let text = constant.value.as_str().unwrap_or_default();
                if parse::has_markup(text) {
                    self.names.extend(names(text).unwrap_or_default());
                }
            }
            ast::Expr::Slice(slice) => {
                self.expr(&slice.expr);
                for bound in [&slice.start, &slice.stop, &slice.step] {
                    bound.iter().for_each(|bound| self.expr(bound));
                }
            }
            ast::Expr::UnaryOp(op) => self.expr(&op.expr),
            ast::Expr::BinOp(op) => {
                self.expr(&op.left);
                self.expr(&op.right);
            }
            ast::Expr::Compare(compare) => {
                self.expr(&compare.expr);
                compare.ops.iter().for_each(|op| self.expr(&op.expr));
            }
            ast::Expr::IfExpr(choice) => {
                self.expr(&choice.test_expr);
                self.expr(&choice.true_expr);
                choice.false_expr.iter().for_each(|expr| self.expr(expr));
            }
            ast::Expr::Filter(filter) => {
                let short = filters::short_name(filter.name);
                if !filters::names().any(|known| known == short) {
                    self.stranger("filter", filter.name, filters::names());
                }
                self.named_by_text(short, &filter.args);
                filter.expr.iter().for_each(|expr| self.expr(expr));
                self.args(&filter.args);
            }
            ast::Expr::Test(test) => {
                if !jinja_tests::names().any(|known| known == filters::short_name(test.name)) {
                    self.stranger("test", test.name, jinja_tests::names());
                }
                self.expr(&test.expr);
                self.args(&test.args);
            }
            ast::Expr::GetAttr(attr) => self.expr(&attr.expr),
            ast::Expr::GetItem(item) => {
                self.expr(&item.expr);
                self.expr(&item.subscript_expr);
            }
            ast::Expr::Call(call) => self.call(call),
            ast::Expr::List(list) => list.items.iter().for_each(|item| self.expr(item)),
            ast::Expr::Map(map) => {
                map.keys.iter().for_each(|key| self.expr(key));
                map.values.iter().for_each(|value| self.expr(value));
            }
        }
    }

    /// Filters and tests that other filters get as text: `map('regex_replace', …)`, `select('match', …)`.
    fn named_by_text(&mut self, filter: &str, args: &'a [ast::CallArg<'a>]) {
        let at = match filter {
            "map" | "select" | "reject" => 0,
            "selectattr" | "rejectattr" => 1,
            _ => return,
        };
        let Some(name) = args.get(at).and_then(constant_text) else { return };
        let short = filters::short_name(name);
        if filter == "map" {
            if !filters::names().any(|known| known == short) {
                self.stranger("filter", name, filters::names());
            }
        } else if !jinja_tests::names().any(|known| known == short) {
            self.stranger("test", name, jinja_tests::names());
        }
    }

    fn call(&mut self, call: &'a ast::Call<'a>) {
        match &call.expr {
            ast::Expr::Var(var) if matches!(var.id, "lookup" | "query" | "q") && !self.is_bound(var.id) => {
                let name = call.args.first().and_then(constant_text);
                if let Some(name) = name
                    && !lookups::names().any(|known| known == filters::short_name(name))
                {
                    self.stranger("lookup", name, lookups::names());
                }
                if name.is_none_or(|name| filters::short_name(name) == "vars") {
                    for arg in call.args.iter().skip(1) {
                        match (arg, constant_text(arg)) {
                            (_, Some(variable)) => {
                                self.names.insert(variable.to_owned());
                            }
                            (ast::CallArg::Pos(_), None) => {
                                self.names.insert("vars".to_owned());
                            }
                            _ => {}
                        }
                    }
                }
            }
            ast::Expr::GetAttr(attr) => {
                let is_local = matches!(&attr.expr, ast::Expr::Var(var) if self.is_bound(var.id));
                let is_known =
                    methods::NAMES.contains(&attr.name) || matches!(attr.name, "cycle" | "changed");
                if !is_known && !is_local {
                    self.stranger("method", attr.name, methods::NAMES.iter().copied());
                }
                self.expr(&attr.expr);
            }
            other => self.expr(other),
        }
        self.args(&call.args);
    }
}

fn constant_text<'a>(arg: &'a ast::CallArg<'a>) -> Option<&'a str> {
    match arg {
        ast::CallArg::Pos(ast::Expr::Const(constant)) => constant.value.as_str(),
        _ => None,
    }
}

/// Returns the place of a word in the text, if the text stands in the file as it is; else the whole text's place.
fn place(text: &str, word: &str, span: Span) -> Span {
    let length = (span.end - span.start) as usize;
    let quotes = match length.checked_sub(text.len()) {
        Some(0) => 0,
        Some(2) => 1,
        _ => return span,
    };
    match text.find(word) {
        Some(at) => {
            let start = span.start as usize + quotes + at;
            Span::new(span.file, start, start + word.len())
        }
        None => span,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::FileId;

    fn found(text: &str) -> Vec<String> {
        names(text).unwrap().into_iter().collect()
    }

    #[test]
    fn names_are_what_a_template_reaches_and_not_what_it_defines() {
        let table: [(&str, &[&str]); 8] = [
            ("{{ a.b[c] | default(d) }}", &["a", "c", "d"]),
            ("{% for x in xs %}{{ x }}{{ loop.index }}{{ y }}{% endfor %}{{ x }}", &["x", "xs", "y"]),
            ("{% set s = a %}{{ s }}", &["a"]),
            ("{% macro m(p, q=z) %}{{ p }}{{ q }}{{ r }}{% endmacro %}{{ m(1) }}", &["r", "z"]),
            ("{{ lookup('vars', 'v1') }}{{ lookup('env', 'HOME') }}", &["v1"]),
            ("{{ lookup('vars', 'pre_' ~ n) }}", &["n", "vars"]),
            ("{{ hostvars[groups['x'][0]].y }}{{ omit }}", &["groups", "hostvars"]),
            ("no template", &[]),
        ];
        for (text, expected) in table {
            assert_eq!(found(text), expected, "{text}");
        }
    }

    #[test]
    fn a_misspelled_filter_is_found_at_its_place() {
        let text = "{{ a | defualt(1) }}";
        let span = Span::new(FileId(0), 100, 100 + text.len() + 2);

        let diagnostics = check(text, Some(span));

        let problem = diagnostics.sorted()[0];
        assert_eq!((problem.code, problem.span), ("unknown-filter", Some(Span::new(FileId(0), 108, 115))));
        assert_eq!(problem.hint.as_deref(), Some("did you mean `default`?"));
    }

    #[test]
    fn tests_lookups_methods_and_names_given_as_text_are_checked() {
        let table = [
            ("{{ a is defned }}", "unknown-test"),
            ("{{ lookup('fil', 'x') }}", "unknown-lookup"),
            ("{{ a.splt(',') }}", "unknown-method"),
            ("{{ a | map('uper') }}", "unknown-filter"),
            ("{{ a | selectattr('x', 'equalt', 1) }}", "unknown-test"),
            ("{% do a.append(1) %}", "unknown-statement"),
            ("{{ a | }}", "template-syntax"),
        ];
        for (text, code) in table {
            let diagnostics = check(text, None);
            assert_eq!(diagnostics.sorted().first().map(|d| d.code), Some(code), "{text}");
        }
        assert!(check("{{ a | ansible.builtin.default(1) is ansible.builtin.defined }}", None).is_empty());
        assert!(
            check_expression("a.stdout.split(',') | map('trim') | select('search', 'x')", None).is_empty()
        );
    }
}
