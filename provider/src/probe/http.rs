//! The manifest and parts of every artifact, over HTTP.

use std::net::SocketAddr;
use std::time::Duration;

use boot_manifest::{Artifact, MANIFEST_SIZE_MAX};
use fetch::Trust;
use http::StatusCode;

use super::{Outcome, Problem, Subject, own_address};
use crate::question::{Answer, Question};

/// One request. The files were hashed before they were installed; a manifest may wait for that of one more.
const ANSWER_TIME: Duration = Duration::from_secs(20);

/// More than a chunk.
const PART_SIZE_MAX: usize = 2 << 20;

/// `manifest`
pub(super) async fn manifest(subject: &Subject) -> Outcome {
    let base = base(subject)?;
    let Subject { channel, arch, .. } = subject;
    let folder = format!("/{channel}/{arch}/manifest.json");
    for path in ["/manifest.json", &folder] {
        let question = Question {
            wait: ANSWER_TIME,
            size_max: MANIFEST_SIZE_MAX,
            ..Question::get(&base, path)
        };
        let answer = ask(&question).await?;
        good(&answer, StatusCode::OK, path)?;
        if answer.body != subject.manifest.bytes() {
            return Err(Problem::Wrong(format!(
                "{} is not the manifest that was installed",
                question.url()
            )));
        }
    }
    Ok(format!("{} at {base}", subject.manifest.digest()))
}

/// `ranges`
pub(super) async fn ranges(subject: &Subject) -> Outcome {
    let base = base(subject)?;
    let mut parts = 0;
    for artifact in &subject.manifest.artifacts {
        for index in chosen(artifact.chunks.chunk_count()) {
            part(subject, &base, artifact, index).await?;
            parts += 1;
        }
    }
    let artifacts = subject.manifest.artifacts.len();
    Ok(format!(
        "{parts} ranges of {artifacts} artifacts have the digests of the manifest"
    ))
}

/// The first, the middle and the last of so many.
fn chosen(count: usize) -> Vec<usize> {
    let mut chosen = vec![0, count / 2, count.saturating_sub(1)];
    chosen.dedup();
    chosen.retain(|index| *index < count);
    chosen
}

async fn part(
    subject: &Subject,
    base: &str,
    artifact: &Artifact,
    index: usize,
) -> Result<(), Problem> {
    let Subject { channel, arch, .. } = subject;
    let path = format!("/{channel}/{arch}/{}", artifact.filename);
    let range = artifact.chunks.range(index);
    let question = Question {
        range: Some(range.clone()),
        wait: ANSWER_TIME,
        size_max: PART_SIZE_MAX,
        ..Question::get(base, &path)
    };
    let answer = ask(&question).await?;
    good(&answer, StatusCode::PARTIAL_CONTENT, &path)?;
    match artifact.chunks.verify(index, &answer.body) {
        true => Ok(()),
        false => Err(Problem::Wrong(format!(
            "bytes {} to {} of {} are not those of the manifest",
            range.start,
            range.end,
            question.url()
        ))),
    }
}

async fn ask(question: &Question<'_>) -> Result<Answer, Problem> {
    question.ask(&Trust::System).await.map_err(Problem::not_yet)
}

fn good(answer: &Answer, expected: StatusCode, path: &str) -> Result<(), Problem> {
    match answer.status == expected {
        true => Ok(()),
        // It may be starting, or busy.
        false => Err(Problem::NotYet(format!(
            "{path}: {}: {}",
            answer.status,
            answer.line()
        ))),
    }
}

fn base(subject: &Subject) -> Result<String, Problem> {
    let address = SocketAddr::new(own_address()?, subject.port);
    Ok(format!("http://{address}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_and_the_middle_are_looked_at() {
        assert_eq!(chosen(0), [0; 0]);
        assert_eq!(chosen(1), [0]);
        assert_eq!(chosen(2), [0, 1]);
        assert_eq!(chosen(9), [0, 4, 8]);
    }
}
