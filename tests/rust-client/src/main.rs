//! The AWS SDK for Rust against `kmsfs serve`: a data key there and back, and two refusals. The
//! environment has AWS_ENDPOINT_URL_KMS, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.

use aws_sdk_kms::Client;
use aws_sdk_kms::config::{Config, Credentials, Region};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{DataKeySpec, KeyState};

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (id, secret) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"));
    let config = Config::builder()
        .endpoint_url(variable("AWS_ENDPOINT_URL_KMS"))
        .region(Region::new(variable("AWS_REGION")))
        .credentials_provider(Credentials::new(id, secret, None, None, "environment"))
        .build();
    let kms = Client::from_conf(config);

    let made = kms.create_key().description("of the SDK for Rust").send().await.unwrap();
    let key = made.key_metadata().unwrap().key_id().to_owned();
    let data_key = kms.generate_data_key().key_id(&key).key_spec(DataKeySpec::Aes256);
    let data_key = data_key.encryption_context("a", "b").send().await.unwrap();
    let blob = data_key.ciphertext_blob().unwrap().clone();
    let decrypt = |value: &str| {
        kms.decrypt().ciphertext_blob(Blob::new(blob.as_ref())).encryption_context("a", value).send()
    };
    assert_eq!(decrypt("b").await.unwrap().plaintext(), data_key.plaintext());
    let refused = decrypt("c").await.unwrap_err().into_service_error();
    assert!(refused.is_invalid_ciphertext_exception(), "{refused:?}");

    kms.disable_key().key_id(&key).send().await.unwrap();
    let described = kms.describe_key().key_id(&key).send().await.unwrap();
    assert_eq!(described.key_metadata().unwrap().key_state(), Some(&KeyState::Disabled));
    let refused = decrypt("b").await.unwrap_err().into_service_error();
    assert!(refused.is_disabled_exception(), "{refused:?}");

    let mut pages = kms.list_keys().into_paginator().page_size(1).items().send();
    let mut listed = Vec::new();
    while let Some(entry) = pages.next().await {
        listed.push(entry.unwrap().key_id().unwrap_or_default().to_owned());
    }
    assert!(listed.contains(&key), "{listed:?}");
    println!("the AWS SDK for Rust works unchanged");
}
