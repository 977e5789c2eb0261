"""What the clients' tests share: where the key service is, and some keys in it.

The environment has AWS_ENDPOINT_URL_KMS, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
"""

import re

import boto3
import botocore.config

ARN = re.compile(r"^arn:aws:kms:[a-z0-9-]+:\d{12}:key/[0-9a-f-]{36}$")


def expect(holds, message):
    # Not `assert`, which an optimising interpreter leaves out.
    if not holds:
        raise AssertionError(message)


def client(config=None, **overrides):
    # Each call once: a test must see what it caused.
    once = botocore.config.Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=30)
    return boto3.client("kms", config=once.merge(config) if config else once, **overrides)


def no_key(_world):
    return "00000000-0000-4000-8000-000000000000"


class World:
    def __init__(self):
        self.kms = client()
        self.key, self.arn = self.new()
        self.other, self.other_arn = self.new()
        self.disabled, _ = self.new()
        self.kms.disable_key(KeyId=self.disabled)
        self.pending, _ = self.new()
        self.kms.schedule_key_deletion(KeyId=self.pending)

        self.signing, _ = self.new(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
        self.authenticating, _ = self.new(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")
        self.external, _ = self.new(Origin="EXTERNAL")

    def new(self, **parameters):
        made = self.kms.create_key(Description="of a test", **parameters)["KeyMetadata"]
        return made["KeyId"], made["Arn"]

    def state(self, key):
        return self.kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"]

    def user(self, name):
        account = self.arn.split(":")[4]
        return f"arn:aws:iam::{account}:user/{name}"

    def remember(self, name, value):
        setattr(self, name, value)
        return True

    def token(self):
        """The token of a grant."""
        made = self.kms.create_grant(
            KeyId=self.key, Name="by-token", GranteePrincipal=self.user("grantee"), Operations=["Decrypt"]
        )
        return made["GrantToken"]

    def twice(self):
        """A key that has alias/twice already."""
        self.kms.create_alias(AliasName="alias/twice", TargetKeyId=self.key)
        return self.key
