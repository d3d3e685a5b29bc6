//! Where a report goes beside the terminal: a file (`--json`), a folder (`--report`).
//!
//! Owns the files. Whether they can be written is found out before anything is measured, not after minutes. Refuses to
//! know what is in them.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::report::Report;

/// Made and removed again, to see whether the folder takes files.
const PROBE: &str = ".quorate-report";

/// What was asked for beside the table.
pub(super) struct Output {
    json: Option<PathBuf>,
    folder: Option<PathBuf>,
}

impl Output {
    /// Makes the folder, and sees whether all files can be written. Changes nothing that is there.
    pub(super) fn open(json: Option<&Path>, folder: Option<&Path>) -> Result<Output, String> {
        if let Some(path) = folder {
            check_folder(path).map_err(|error| format!("--report {}: {error}", path.display()))?;
        }
        if let Some(path) = json {
            let opened = OpenOptions::new().create(true).append(true).open(path);
            opened.map_err(|error| format!("--json {}: {error}", path.display()))?;
        }
        Ok(Output { json: json.map(Path::to_owned), folder: folder.map(Path::to_owned) })
    }

    /// Writes the files. The error names the one that could not be written.
    pub(super) fn write(&self, report: &Report) -> Result<(), String> {
        let write = |path: &Path, text: &str| {
            fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
        };
        if let Some(path) = &self.json {
            write(path, &report.json()?)?;
        }
        if let Some(folder) = &self.folder {
            for (name, text) in report.files()? {
                write(&folder.join(name), &text)?;
            }
        }
        Ok(())
    }
}

fn check_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for name in Report::file_names() {
        // What is there may be somebody else's, or a folder.
        match OpenOptions::new().append(true).open(folder.join(&name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(io::Error::new(error.kind(), format!("{name}: {error}")));
            }
            _ => {}
        }
    }
    let probe = folder.join(PROBE);
    fs::write(&probe, "")?;
    fs::remove_file(&probe)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of this test's own, which goes with it.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("quorate-output-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn refusal(folder: &Path) -> String {
        match Output::open(None, Some(folder)) {
            Ok(_) => panic!("{} was accepted", folder.display()),
            Err(message) => message,
        }
    }

    #[test]
    fn a_folder_is_made_and_nothing_is_left_in_it_before_there_is_a_report() {
        let scratch = Scratch::new("made");
        let folder = scratch.0.join("a/b");
        Output::open(None, Some(&folder)).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::write(folder.join("report.html"), "of an earlier run").unwrap();
        Output::open(None, Some(&folder)).unwrap();
        assert_eq!(fs::read_to_string(folder.join("report.html")).unwrap(), "of an earlier run");
    }

    #[test]
    fn a_folder_that_takes_no_files_is_refused() {
        let scratch = Scratch::new("refused");
        fs::write(scratch.0.join("file"), "").unwrap();
        for path in ["file", "file/below"] {
            let message = refusal(&scratch.0.join(path));
            assert!(message.starts_with("--report ") && message.contains("/file"), "{message}");
        }
        // Not even root can make files there.
        refusal(Path::new("/proc/quorate"));
        fs::create_dir(scratch.0.join("tail.svg")).unwrap();
        let message = refusal(&scratch.0);
        assert!(message.contains("tail.svg: "), "{message}");
        assert!(Output::open(Some(&scratch.0), None).is_err());
    }
}
