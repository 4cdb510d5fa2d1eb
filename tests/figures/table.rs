//! The rows, and how they are printed: as a Markdown table with the budget beside each figure, or as JSON.

use serde_json::{Value, json};

/// What a row may be at most.
#[derive(Debug, Clone, Copy)]
pub enum Budget {
    /// It stands beside another row only for comparison.
    None,
    /// At most this.
    AtMost(f64),
    /// At most the first; the second is what we want.
    Aim(f64, f64),
}

/// One figure.
#[derive(Debug)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// How much.
    pub figure: f64,
    /// Of what: `ms`, `KiB`, `bytes`, `×`.
    pub unit: &'static str,
    /// Time on the CPU beside time on the clock, where both were taken.
    pub cpu: Option<f64>,
    /// What it may be.
    pub budget: Budget,
}

impl Row {
    /// A figure without a budget.
    pub fn new(what: impl Into<String>, figure: f64, unit: &'static str) -> Self {
        Self { what: what.into(), figure, unit, cpu: None, budget: Budget::None }
    }

    /// The same with one.
    pub fn within(self, budget: Budget) -> Self {
        Self { budget, ..self }
    }

    /// `None` where there is no budget.
    pub fn holds(&self) -> Option<bool> {
        match self.budget {
            Budget::None => None,
            Budget::AtMost(most) | Budget::Aim(most, _) => Some(self.figure <= most),
        }
    }

    fn json(&self) -> Value {
        let (most, aim) = match self.budget {
            Budget::None => (None, None),
            Budget::AtMost(most) => (Some(most), None),
            Budget::Aim(most, aim) => (Some(most), Some(aim)),
        };
        json!({"what": self.what, "figure": self.figure, "unit": self.unit, "cpu": self.cpu, "budget": most, "aim": aim, "holds": self.holds()})
    }

    fn markdown(&self) -> String {
        let cpu = self.cpu.map(|cpu| format!(", {} on the CPU", amount(cpu, self.unit))).unwrap_or_default();
        let budget = match self.budget {
            Budget::None => String::new(),
            Budget::AtMost(most) => format!("≤ {}", amount(most, self.unit)),
            Budget::Aim(most, aim) => format!("≤ {}, aim {}", amount(most, self.unit), amount(aim, self.unit)),
        };
        let verdict = match self.holds() {
            Some(true) => "holds",
            Some(false) => "**missed**",
            None => "",
        };
        format!("| {} | {}{cpu} | {budget} | {verdict} |", self.what, amount(self.figure, self.unit))
    }
}

fn amount(figure: f64, unit: &str) -> String {
    match unit {
        "bytes" | "KiB" => format!("{} {unit}", grouped(figure.round() as i64)),
        "×" => format!("{figure:.2} ×"),
        _ => format!("{figure:.2} {unit}"),
    }
}

/// With a comma between each three digits.
fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut out = String::from(if number < 0 { "-" } else { "" });
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The middle one.
pub fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Everything measured in one run.
#[derive(Debug, Default)]
pub struct Table {
    /// In the order of printing.
    pub rows: Vec<Row>,
    /// How it was measured, one sentence each.
    pub notes: Vec<String>,
}

impl Table {
    /// As one JSON document.
    pub fn json(&self) -> String {
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        format!("{:#}", json!({"rows": rows, "notes": self.notes}))
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let rows: String = self.rows.iter().map(|row| row.markdown() + "\n").collect();
        let notes: String = self.notes.iter().map(|note| format!("- {note}\n")).collect();
        format!("| what | how much | budget | |\n|---|---|---|---|\n{rows}\n{notes}")
    }
}
