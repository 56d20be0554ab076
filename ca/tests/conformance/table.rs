//! Tables in the output of the tests. They are written past the test runner's capture: a verdict that nobody sees is none.

use std::{fmt::Write as _, io::Write as _};

use crate::judges::{Complaints, NAMES};

/// One row: what was judged, and what each judge said.
pub struct Row {
    pub name: String,
    pub said: [Complaints; 7],
}

/// Prints the rows: `ok` or `NO` for each judge, and below each row what was said.
pub fn print(title: &str, rows: &[Row]) {
    let mut text = format!("\n{title}\n{:<48}", "");
    for name in NAMES {
        write!(text, "{name:<11}").unwrap();
    }
    text += "\n";
    for row in rows {
        write!(text, "{:<48}", row.name).unwrap();
        for said in &row.said {
            write!(text, "{:<11}", if said.is_empty() { "ok" } else { "NO" }).unwrap();
        }
        text += "\n";
        for (judge, said) in NAMES.iter().zip(&row.said) {
            for complaint in said {
                let complaint: String = complaint.chars().take(150).collect();
                writeln!(text, "    {judge}: {}", complaint.replace('\n', " ")).unwrap();
            }
        }
    }
    std::io::stdout().write_all(text.as_bytes()).unwrap();
}
