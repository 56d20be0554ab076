//! Tables in the output of the tests. They are written past the test runner's capture: a verdict that nobody sees is none.

use std::io::Write as _;

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
        text += &format!("{name:<11}");
    }
    text += "\n";
    for row in rows {
        text += &format!("{:<48}", row.name);
        for said in &row.said {
            text += &format!("{:<11}", if said.is_empty() { "ok" } else { "NO" });
        }
        text += "\n";
        for (judge, said) in NAMES.iter().zip(&row.said) {
            for complaint in said {
                let complaint: String = complaint.chars().take(150).collect();
                text += &format!("    {judge}: {}\n", complaint.replace('\n', " "));
            }
        }
    }
    std::io::stdout().write_all(text.as_bytes()).unwrap();
}
