//! Tables and machine formats, as Patroni's tool prints them.

use serde_json::{Map, Value};

use crate::contract::document::python_json;

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    Pretty,
    Json,
    Yaml,
    Tsv,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        match text {
            "pretty" => Ok(Format::Pretty),
            "json" => Ok(Format::Json),
            "yaml" | "yml" => Ok(Format::Yaml),
            "tsv" => Ok(Format::Tsv),
            _ => Err("expected pretty, json, yaml or tsv".to_owned()),
        }
    }
}

/// A column: its title and where its cells stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column<'a> {
    pub title: &'a str,
    pub right: bool,
}

/// Draws a table with `header` written into its first line.
pub fn pretty(header: &str, columns: &[Column<'_>], rows: &[Vec<String>]) -> String {
    let lines = |cell: &str| cell.split('\n').map(str::to_owned).collect::<Vec<_>>();
    let mut widths: Vec<usize> = columns.iter().map(|column| column.title.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = lines(cell).iter().map(|line| line.chars().count()).fold(*width, usize::max);
        }
    }
    let rule: String = widths.iter().fold("+".to_owned(), |line, width| line + &"-".repeat(width + 2) + "+");
    let mut top: Vec<char> = rule.chars().collect();
    let room = top.len().saturating_sub(2);
    for (slot, c) in top.iter_mut().skip(1).zip(header.chars().take(room)) {
        *slot = c;
    }
    let line = |cells: &[String]| {
        let mut text = "|".to_owned();
        for ((cell, width), column) in cells.iter().zip(&widths).zip(columns) {
            let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
            let (before, after) = if column.right { (pad.as_str(), "") } else { ("", pad.as_str()) };
            text = text + " " + before + cell + after + " |";
        }
        text
    };
    let several = rows.iter().flatten().any(|cell| cell.contains('\n'));
    let titles: Vec<String> = columns.iter().map(|column| column.title.to_owned()).collect();
    let mut out = vec![top.into_iter().collect::<String>(), line(&titles), rule.clone()];
    for (number, row) in rows.iter().enumerate() {
        if several && number > 0 {
            out.push(rule.clone());
        }
        let cells: Vec<Vec<String>> = row.iter().map(|cell| lines(cell)).collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(1);
        for at in 0..height {
            let part: Vec<String> =
                cells.iter().map(|cell| cell.get(at).cloned().unwrap_or_default()).collect();
            out.push(line(&part));
        }
    }
    out.push(rule);
    out.join("\n")
}

/// Writes YAML with sorted keys, as `yaml.safe_dump` does.
pub fn yaml(value: &Value) -> String {
    serde_yaml::to_string(&sorted(value)).unwrap_or_default()
}

/// Writes a mapping on one line as YAML's flow form does, with sorted keys.
pub fn yaml_flow(value: &Value) -> String {
    let sorted = sorted(value);
    let pairs =
        sorted.as_object().into_iter().flatten().map(|(key, value)| format!("{key}: {}", cell(value)));
    format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        Value::Object(map) => {
            let mut pairs: Vec<(&String, &Value)> = map.iter().collect();
            pairs.sort_by_key(|(key, _)| key.as_str());
            Value::Object(pairs.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect())
        }
        other => other.clone(),
    }
}

/// Returns a cell as text: texts as they are, nothing for null, the rest as JSON.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => python_json(other),
    }
}

/// Writes rows with their titles, each line's cells between tabs.
pub fn tsv(titles: &[&str], rows: &[Vec<Value>]) -> String {
    let mut lines = vec![titles.join("\t")];
    lines.extend(rows.iter().map(|row| row.iter().map(cell).collect::<Vec<_>>().join("\t")));
    lines.join("\n")
}

/// Pairs titles and cells of each row. With `drop_empty`, cells without text are left out.
pub fn objects(titles: &[&str], rows: &[Vec<Value>], drop_empty: bool) -> Value {
    let object = |row: &Vec<Value>| {
        let pairs = titles.iter().zip(row).filter(|(_, value)| !drop_empty || !cell(value).is_empty());
        Value::Object(pairs.map(|(title, value)| ((*title).to_owned(), value.clone())).collect::<Map<_, _>>())
    };
    Value::Array(rows.iter().map(object).collect())
}

/// Writes what a query answered.
pub fn answer(titles: &[&str], rows: &[Vec<Option<String>>], format: Format, delimiter: &str) -> String {
    let value = |cell: &Option<String>| cell.clone().map_or(Value::Null, Value::from);
    let values = || rows.iter().map(|row| row.iter().map(value).collect()).collect::<Vec<Vec<Value>>>();
    let texts = |row: &Vec<Option<String>>| row.iter().map(|cell| cell.clone().unwrap_or_default()).collect();
    let cells = || rows.iter().map(texts).collect::<Vec<Vec<String>>>();
    match format {
        Format::Json => python_json(&objects(titles, &values(), false)),
        Format::Yaml => yaml(&objects(titles, &values(), false)),
        // A statement that answers no rows has no columns either.
        Format::Tsv | Format::Pretty if titles.is_empty() => String::new(),
        Format::Tsv => {
            let mut lines = vec![titles.join(delimiter)];
            lines.extend(cells().iter().map(|row| row.join(delimiter)));
            lines.join("\n")
        }
        Format::Pretty => {
            let columns: Vec<Column> = titles.iter().map(|title| Column { title, right: false }).collect();
            pretty("", &columns, &cells())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_title_is_written_into_the_first_line() {
        let columns = [Column { title: "Member", right: false }, Column { title: "TL", right: true }];

        let text = pretty(" Cluster: x ", &columns, &[vec!["a".to_owned(), "1".to_owned()]]);

        assert_eq!(
            text,
            "+ Cluster: x -+\n| Member | TL |\n+--------+----+\n| a      |  1 |\n+--------+----+"
        );
    }

    #[test]
    fn an_answer_has_its_titles_also_where_columns_are_only_delimited() {
        let rows = [vec![Some("7".to_owned()), None]];
        let shown = |format| answer(&["a", "b"], &rows, format, "|");

        assert_eq!(shown(Format::Tsv), "a|b\n7|");
        assert_eq!(shown(Format::Pretty), "+---+---+\n| a | b |\n+---+---+\n| 7 |   |\n+---+---+");
        assert_eq!(shown(Format::Json), r#"[{"a": "7", "b": null}]"#);
        assert_eq!(answer(&[], &[], Format::Tsv, "|"), "");
    }
}
