"""The AWS Encryption SDK: envelope encryption with an encryption context, there and back."""

import aws_encryption_sdk
import botocore.exceptions

from world import World, expect

CONTEXT = {"purpose": "test", "tenant": "7"}


def main():
    w = World()
    client = aws_encryption_sdk.EncryptionSDKClient()
    provider = aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=[w.arn])
    plaintext = bytes(range(256)) * 100
    sealed, _ = client.encrypt(source=plaintext, key_provider=provider, encryption_context=CONTEXT)
    opened, header = client.decrypt(source=sealed, key_provider=provider)
    expect(opened == plaintext, "another plaintext")
    expect(CONTEXT.items() <= header.encryption_context.items(), "another encryption context")
    print("ok there and back")

    # Two master keys: either opens it.
    both = aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=[w.arn, w.other_arn])
    sealed, _ = client.encrypt(source=plaintext, key_provider=both, encryption_context=CONTEXT)
    second = aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=[w.other_arn])
    w.kms.disable_key(KeyId=w.key)
    opened, _ = client.decrypt(source=sealed, key_provider=second)
    expect(opened == plaintext, "another plaintext under the second key")
    print("ok under a second key")
    try:
        client.decrypt(source=sealed, key_provider=aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=[w.arn]))
    except (aws_encryption_sdk.exceptions.AWSEncryptionSDKClientError, botocore.exceptions.ClientError) as error:
        print("ok refused under a disabled key:", type(error).__name__)
    else:
        raise AssertionError("a disabled key opened a message")


main()
