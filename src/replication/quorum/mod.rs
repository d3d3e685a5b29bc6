//! Quorum mode (the protocol essay follows with the code).

use bytes::Bytes;

use super::outcome::{Found, Health, Page, ReadError, ReadOptions, Unavailable, Write, WriteError, Written};
use crate::store::Version;
use crate::wire::{Epoch, PeerPath, Refusal};

/// A node of quorum mode.
#[derive(Clone)]
pub struct Quorum {}

#[expect(clippy::unimplemented, clippy::unused_async, missing_docs)]
impl Quorum {
    pub async fn write(&self, _write: Write) -> Result<Written, WriteError> {
        unimplemented!()
    }
    pub async fn read(&self, _key: &str, _options: ReadOptions) -> Result<Found, ReadError> {
        unimplemented!()
    }
    pub fn page(&self, _prefix: &str, _after: Option<&str>, _limit: usize) -> Result<Page, Unavailable> {
        unimplemented!()
    }
    pub fn health(&self) -> Health {
        unimplemented!()
    }
    pub fn version(&self) -> Version {
        unimplemented!()
    }
    pub fn ready(&self) -> Result<(), Unavailable> {
        unimplemented!()
    }
    pub async fn handle(&self, _path: PeerPath, _body: Bytes) -> Result<Bytes, Refusal> {
        unimplemented!()
    }
    pub fn accept_loss(&self, _epoch: Epoch) -> Result<(), Unavailable> {
        unimplemented!()
    }
}
