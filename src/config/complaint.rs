//! What is wrong with the settings: all of it at once, so that one look at the screen is enough to mend it.

use std::fmt;

use super::raw::Setting;

/// Longest value repeated in a complaint, in characters.
const VALUE_SHOWN_MAX: usize = 80;

/// One wrong setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The variable.
    pub variable: &'static str,
    /// What was given, if it may be shown.
    pub value: Option<String>,
    /// What is wrong with it.
    pub problem: String,
    /// A valid example, as `NAME=value`.
    pub example: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.variable)?;
        if let Some(value) = &self.value {
            let shown: String = value.chars().take(VALUE_SHOWN_MAX).collect();
            let more = if shown.len() < value.len() { "…" } else { "" };
            write!(f, "={}{more}", shown.escape_debug())?;
        }
        write!(f, ": {} (for example {})", self.problem, self.example)
    }
}

/// Everything that is wrong with the settings; at least one thing when it is given as an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Complaints(pub Vec<Complaint>);

impl Complaints {
    pub(super) fn push(&mut self, setting: &Setting, value: Option<&str>, problem: impl Into<String>) {
        let example = format!("{}={}", setting.name, setting.example);
        self.push_with(setting, value, problem, example);
    }

    pub(super) fn push_with(
        &mut self,
        setting: &Setting,
        value: Option<&str>,
        problem: impl Into<String>,
        example: impl Into<String>,
    ) {
        self.0.push(Complaint {
            variable: setting.name,
            value: value.map(str::to_owned),
            problem: problem.into(),
            example: example.into(),
        });
    }

    /// Whether this setting is wrong already: what depends on it then needs no complaint of its own.
    pub(super) fn has(&self, setting: &Setting) -> bool {
        self.0.iter().any(|complaint| complaint.variable == setting.name)
    }
}

impl fmt::Display for Complaints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("a setting is wrong:")?,
            n => write!(f, "{n} settings are wrong:")?,
        }
        self.0.iter().try_for_each(|complaint| write!(f, "\n  {complaint}"))
    }
}

impl std::error::Error for Complaints {}
