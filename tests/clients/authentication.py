"""Whose requests are believed, as boto3 signs them."""

import os

import botocore.exceptions

from world import client, expect


def code(kms):
    try:
        kms.list_keys()
    except botocore.exceptions.ClientError as error:
        return error.response["Error"]["Code"]
    return "ok"


def main():
    cases = [
        ("its own key", {}, "ok"),
        ("an unknown key", {"aws_access_key_id": "AKFSNOBODY0123456789"}, "UnrecognizedClientException"),
        ("a wrong secret", {"aws_secret_access_key": "x" * 40}, "InvalidSignatureException"),
        ("a session token", {"aws_session_token": "t"}, "UnrecognizedClientException"),
        ("another region", {"region_name": "eu-west-1"}, "InvalidSignatureException"),
    ]
    for name, overrides, expected in cases:
        keys = {
            "aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
        }
        got = code(client(**{**keys, **overrides}))
        expect(got == expected, f"{name}: {got}, not {expected}")
        print("ok", name)


main()
