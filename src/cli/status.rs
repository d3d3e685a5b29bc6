//! `quorate status` and `quorate health`: what nodes say about themselves, as a table or as an exit code.
//!
//! The leader knows who its followers are and how far they are behind; each follower is asked itself as well, for a
//! node that the leader calls down may be well and cut off. It knows the fields of `/health`, no types of the server.

use clap::Args;
use futures::future::join_all;
use serde::Deserialize;

use super::client::{Target, as_line, is_success, not_understood, refused};
use super::{CliError, print};
use crate::wire::{Answer, HttpClient, PeerUrl};

/// Arguments of `status`.
#[derive(Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    target: Target,
}

/// The fields of `/health` that the table needs. All may be missing: an older or younger node is still shown.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Health {
    status: Option<String>,
    node_id: Option<String>,
    role: Option<String>,
    version: Option<u64>,
    epoch: Option<String>,
    term: Option<u64>,
    leader_id: Option<String>,
    commit_index: Option<u64>,
    last_applied: Option<u64>,
    write_quorum: Option<u64>,
    leader: Option<String>,
    message: Option<String>,
    followers: Vec<Follower>,
    recovery: Option<Recovery>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Follower {
    node_id: Option<String>,
    url: String,
    state: Option<String>,
    lag: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Recovery {
    epoch: String,
    message: String,
}

pub(super) async fn status(args: StatusArgs) -> Result<(), CliError> {
    let client = args.target.client(None)?;
    let (mut url, mut answer) = (args.target.url.clone(), ask(&client, &args.target.url).await?);
    let mut health = parse(&answer)?;
    // A follower knows where its leader is. Should that one not answer, the follower's own word is what there is.
    if let Some(leader) = health.leader.as_deref().and_then(|leader| PeerUrl::parse(leader).ok()) {
        match ask(&client, &leader).await {
            Ok(led) => {
                health = parse(&led)?;
                (url, answer) = (leader, led);
            }
            Err(error) => {
                let (CliError::Failed(text) | CliError::Usage(text)) = error;
                health.message = Some(format!("its leader {leader} does not answer: {text}"));
            }
        }
    }
    if args.target.json {
        return print(&as_line(&answer));
    }
    let asked = health.followers.iter().map(async |follower| {
        let url = PeerUrl::parse(&follower.url).map_err(CliError::Failed)?;
        parse(&ask(&client, &url).await?)
    });
    let own: Vec<Option<Health>> = join_all(asked).await.into_iter().map(Result::ok).collect();
    print(&describe(&url, &health, &own))
}

async fn ask(client: &HttpClient, url: &PeerUrl) -> Result<Answer, CliError> {
    let answer = client.get(&format!("{url}/health"), &[]).await.map_err(CliError::Failed)?;
    if is_success(&answer) { Ok(answer) } else { Err(refused(&answer)) }
}

fn parse(answer: &Answer) -> Result<Health, CliError> {
    serde_json::from_slice(&answer.body).map_err(|error| not_understood(answer, &error))
}

/// The table, and below it what a person should know. `own` is what each follower says, if it answers.
fn describe(url: &PeerUrl, health: &Health, own: &[Option<Health>]) -> String {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let number = |number: Option<u64>| number.map_or_else(|| "-".into(), |number| number.to_string());
    let mut rows = vec![["NODE", "ROLE", "STATE", "VERSION", "LAG", "URL"].map(String::from)];
    rows.push([
        or_dash(&health.node_id),
        or_dash(&health.role),
        or_dash(&health.status),
        number(health.version),
        "-".into(),
        url.to_string(),
    ]);
    for (follower, own) in health.followers.iter().zip(own) {
        let state = match own {
            Some(own) if own.status.as_deref().is_some_and(|status| status != "healthy") => {
                format!("{}, {}", or_dash(&follower.state), or_dash(&own.status))
            }
            Some(_) => or_dash(&follower.state),
            None => format!("{}, no answer", or_dash(&follower.state)),
        };
        let own_id = own.as_ref().and_then(|own| own.node_id.clone());
        rows.push([
            or_dash(&own_id.or_else(|| follower.node_id.clone())),
            own.as_ref().and_then(|own| own.role.clone()).unwrap_or_else(|| "follower".into()),
            state,
            number(own.as_ref().and_then(|own| own.version)),
            number(follower.lag),
            follower.url.clone(),
        ]);
    }
    let mut text = table(&rows);
    if let Some(quorum) = health.write_quorum {
        let epoch = health.epoch.as_ref().map(|epoch| format!("; epoch {epoch}")).unwrap_or_default();
        // A raft member that does not lead knows the quorum, and not how far the others are.
        if health.term.is_none() || !health.followers.is_empty() {
            text.push_str(&format!(
                "\na write is acknowledged by {quorum} of {} followers{epoch}\n",
                health.followers.len()
            ));
        }
    }
    if let Some(term) = health.term {
        text.push_str(&format!(
            "\nterm {term}, leader {}; the log is committed up to index {}, applied up to {}\n",
            or_dash(&health.leader_id),
            number(health.commit_index),
            number(health.last_applied)
        ));
    }
    if let Some(message) = &health.message {
        text.push_str(&format!("\n{}: {message}\n", or_dash(&health.node_id)));
    }
    if let Some(Recovery { epoch, message }) = &health.recovery {
        // The node's own message says it too, with a few words before it.
        if !health.message.as_ref().is_some_and(|said| said.ends_with(message.as_str())) {
            text.push_str(&format!("\n{message}\n"));
        }
        text.push_str(&format!(
            "if they will never come back: quorate recover --accept-loss {epoch} --url {url}\n"
        ));
    }
    text
}

/// Columns as wide as their widest cell.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// Arguments of `health`.
#[derive(Args)]
pub(super) struct HealthArgs {
    /// Ask whether the node can do its role now, not only whether it works
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn health(args: HealthArgs) -> Result<(), CliError> {
    let path = if args.ready { "/ready" } else { "/health" };
    let url = format!("{}{path}", args.target.url);
    let answer = args.target.client(None)?.get(&url, &[]).await.map_err(CliError::Failed)?;
    if args.target.json {
        print(&as_line(&answer))?;
        return if is_success(&answer) { Ok(()) } else { Err(CliError::Failed(String::new())) };
    }
    if !is_success(&answer) {
        return Err(refused(&answer));
    }
    let health = parse(&answer)?;
    let word =
        if args.ready { "ready".to_owned() } else { health.status.unwrap_or_else(|| "healthy".into()) };
    print(&format!("{word}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_every_node_and_what_keeps_a_leader_from_serving() {
        let health: Health = serde_json::from_str(
            r#"{"status":"recovering","role":"leader","node_id":"leader","version":7,"epoch":"9-0000000000000001",
                "write_quorum":2,"message":"waits for http://b:2","followers":[
                {"node_id":"f1","url":"http://a:1","state":"up","acked_version":7,"lag":0},
                {"node_id":null,"url":"http://b:2","state":"down","acked_version":0,"lag":7}],
                "recovery":{"epoch":"8-0000000000000001","missing":["http://b:2"],"message":"waits for http://b:2"}}"#,
        )
        .unwrap();
        let own = [
            Some(Health {
                node_id: Some("f1".into()),
                version: Some(7),
                status: Some("healthy".into()),
                ..Health::default()
            }),
            None,
        ];
        let text = describe(&PeerUrl::parse("l:1").unwrap(), &health, &own);
        assert_eq!(
            text,
            "NODE    ROLE      STATE            VERSION  LAG  URL\n\
             leader  leader    recovering       7        -    http://l:1\n\
             f1      follower  up               7        0    http://a:1\n\
             -       follower  down, no answer  -        7    http://b:2\n\
             \na write is acknowledged by 2 of 2 followers; epoch 9-0000000000000001\n\
             \nleader: waits for http://b:2\n\
             if they will never come back: quorate recover --accept-loss 8-0000000000000001 --url http://l:1\n"
        );
    }

    #[test]
    fn in_raft_mode_the_table_is_followed_by_term_leader_and_index() {
        let health: Health = serde_json::from_str(
            r#"{"status":"healthy","role":"leader","node_id":"n0","version":7,"term":3,"leader":"http://a:1",
                "leader_id":"n0","commit_index":12,"last_applied":11,"write_quorum":1,"followers":[
                {"node_id":"n1","url":"http://b:2","state":"up","acked_version":9,"lag":3}]}"#,
        )
        .unwrap();
        let own = [Some(Health { version: Some(6), status: Some("healthy".into()), ..Health::default() })];
        let text = describe(&PeerUrl::parse("a:1").unwrap(), &health, &own);
        assert_eq!(
            text,
            "NODE  ROLE      STATE    VERSION  LAG  URL\n\
             n0    leader    healthy  7        -    http://a:1\n\
             n1    follower  up       6        3    http://b:2\n\
             \na write is acknowledged by 1 of 1 followers\n\
             \nterm 3, leader n0; the log is committed up to index 12, applied up to 11\n"
        );
        let alone = Health { followers: Vec::new(), leader_id: None, ..health };
        let text = describe(&PeerUrl::parse("a:1").unwrap(), &alone, &[]);
        assert!(!text.contains("acknowledged") && text.contains("term 3, leader -;"), "{text}");
    }
}
