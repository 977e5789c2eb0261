//! `tag`: words on keys.

use serde_json::Value;

use super::access_args::TagCommand;
use super::args::Global;
use super::exit::CliResult;
use super::key_store::KeyStore;
use super::output::{Output, table};
use crate::kms::api::{
    ListResourceTagsRequest, ListResourceTagsResponse, Tag, TagResourceRequest, UntagResourceRequest,
};

pub(super) fn run(global: &Global, command: &TagCommand, output: &Output) -> CliResult<()> {
    let store = KeyStore::open(global)?;
    match command {
        TagCommand::Add { key, tags } => {
            let tags = tags.iter().cloned().map(|(tag_key, tag_value)| Tag { tag_key, tag_value });
            let request = TagResourceRequest { key_id: store.key_id(key)?, tags: tags.collect() };
            let response: Value = store.call("TagResource", &request)?;
            output.print(&response, |_| vec!["tagged".to_owned()])
        }
        TagCommand::Remove { key, names } => {
            let request = UntagResourceRequest { key_id: store.key_id(key)?, tag_keys: names.clone() };
            let response: Value = store.call("UntagResource", &request)?;
            output.print(&response, |_| vec!["untagged".to_owned()])
        }
        // A key has no more tags than fit into one page.
        TagCommand::List { key } => {
            let request = ListResourceTagsRequest { key_id: store.key_id(key)?, ..Default::default() };
            let response: ListResourceTagsResponse = store.call("ListResourceTags", &request)?;
            output.print(&response, |response| {
                let tags = response.tags.iter();
                let rows: Vec<_> = tags.map(|tag| vec![tag.tag_key.clone(), tag.tag_value.clone()]).collect();
                table(&["TAG", "VALUE"], &rows)
            })
        }
    }
}
