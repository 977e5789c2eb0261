"""Every operation that the key service offers, through boto3.

Each entry of CALLS is one line: the operation, a function of the world that makes its parameters, and
what must hold of the answer. Each entry of REFUSALS is one line too: the operation, its parameters and
the exception's name. Prints one line per call; any failure ends the program.
"""

import datetime

import botocore
import botocore.config
import botocore.exceptions
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding

from world import ARN, World, client, expect, no_key

CONTEXT = {"purpose": "test", "empty": "\u00e9"}


def encrypted(w):
    return w.kms.encrypt(KeyId=w.key, Plaintext=b"hello", EncryptionContext=CONTEXT)["CiphertextBlob"]


SIGNING = {"Message": b"m", "SigningAlgorithm": "ECDSA_SHA_256"}
MAC = {"Message": b"m", "MacAlgorithm": "HMAC_SHA_256"}


def sealed_material(w):
    """Parameters that import material which was wrapped as AWS documents it."""
    token = w.kms.get_parameters_for_import(
        KeyId=w.external, WrappingAlgorithm="RSAES_OAEP_SHA_256", WrappingKeySpec="RSA_2048"
    )
    oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
    wrapped = serialization.load_der_public_key(token["PublicKey"]).encrypt(b"k" * 32, oaep)
    return {
        "KeyId": w.external,
        "ImportToken": token["ImportToken"],
        "EncryptedKeyMaterial": wrapped,
        "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
    }


def is_signed(w, signature):
    """Whether the signature is good by other arithmetic than the key service's."""
    public = serialization.load_der_public_key(w.kms.get_public_key(KeyId=w.signing)["PublicKey"])
    public.verify(signature, b"m", ec.ECDSA(hashes.SHA256()))
    return True


def is_pair(pair):
    private = serialization.load_der_private_key(pair["PrivateKeyPlaintext"], None)
    return private.public_key() == serialization.load_der_public_key(pair["PublicKey"])


def grant(w):
    return {
        "KeyId": w.key,
        "GranteePrincipal": w.user("grantee"),
        "RetiringPrincipal": w.user("reeve"),
        "Operations": ["Encrypt", "Decrypt"],
    }


CALLS = [
    ("create_key", lambda w: {"Description": "d"}, lambda w, a: ARN.match(a["KeyMetadata"]["Arn"])),
    ("describe_key", lambda w: {"KeyId": w.key}, lambda w, a: a["KeyMetadata"]["KeyState"] == "Enabled"),
    ("describe_key", lambda w: {"KeyId": w.arn}, lambda w, a: is_recent(a["KeyMetadata"]["CreationDate"])),
    ("list_keys", lambda w: {}, lambda w, a: w.key in [k["KeyId"] for k in a["Keys"]]),
    ("create_alias", lambda w: {"AliasName": "alias/a", "TargetKeyId": w.key}, lambda w, a: True),
    ("describe_key", lambda w: {"KeyId": "alias/a"}, lambda w, a: a["KeyMetadata"]["KeyId"] == w.key),
    ("update_alias", lambda w: {"AliasName": "alias/a", "TargetKeyId": w.other}, lambda w, a: True),
    ("list_aliases", lambda w: {"KeyId": w.other}, lambda w, a: [x["AliasName"] for x in a["Aliases"]] == ["alias/a"]),
    ("delete_alias", lambda w: {"AliasName": "alias/a"}, lambda w, a: True),
    ("encrypt", lambda w: {"KeyId": w.key, "Plaintext": b"x" * 4096}, lambda w, a: a["EncryptionAlgorithm"] == "SYMMETRIC_DEFAULT"),
    ("decrypt", lambda w: {"CiphertextBlob": encrypted(w), "EncryptionContext": CONTEXT}, lambda w, a: a["Plaintext"] == b"hello"),
    ("decrypt", lambda w: {"CiphertextBlob": encrypted(w), "EncryptionContext": CONTEXT, "KeyId": w.arn}, lambda w, a: a["KeyId"] == w.arn),
    ("re_encrypt", lambda w: {"CiphertextBlob": encrypted(w), "SourceEncryptionContext": CONTEXT, "DestinationKeyId": w.other}, lambda w, a: w.kms.decrypt(CiphertextBlob=a["CiphertextBlob"])["Plaintext"] == b"hello"),
    ("generate_data_key", lambda w: {"KeyId": w.key, "KeySpec": "AES_256"}, lambda w, a: len(a["Plaintext"]) == 32 and w.kms.decrypt(CiphertextBlob=a["CiphertextBlob"])["Plaintext"] == a["Plaintext"]),
    ("generate_data_key", lambda w: {"KeyId": w.key, "NumberOfBytes": 17}, lambda w, a: len(a["Plaintext"]) == 17),
    ("generate_data_key_without_plaintext", lambda w: {"KeyId": w.key, "KeySpec": "AES_128"}, lambda w, a: "Plaintext" not in a and len(w.kms.decrypt(CiphertextBlob=a["CiphertextBlob"])["Plaintext"]) == 16),
    ("generate_random", lambda w: {"NumberOfBytes": 1024}, lambda w, a: len(a["Plaintext"]) == 1024),
    ("rotate_key_on_demand", lambda w: {"KeyId": w.other}, lambda w, a: a["KeyId"] == w.other_arn),
    ("list_key_rotations", lambda w: {"KeyId": w.other}, lambda w, a: a["Rotations"][0]["RotationType"] == "ON_DEMAND"),
    ("tag_resource", lambda w: {"KeyId": w.key, "Tags": [{"TagKey": "a", "TagValue": "b"}]}, lambda w, a: True),
    ("list_resource_tags", lambda w: {"KeyId": w.key}, lambda w, a: a["Tags"] == [{"TagKey": "a", "TagValue": "b"}]),
    ("untag_resource", lambda w: {"KeyId": w.key, "TagKeys": ["a"]}, lambda w, a: w.kms.list_resource_tags(KeyId=w.key)["Tags"] == []),
    ("get_key_policy", lambda w: {"KeyId": w.key}, lambda w, a: w.remember("policy", a["Policy"]) and a["PolicyName"] == "default"),
    ("put_key_policy", lambda w: {"KeyId": w.key, "PolicyName": "default", "Policy": w.policy}, lambda w, a: True),
    ("list_key_policies", lambda w: {"KeyId": w.key}, lambda w, a: a["PolicyNames"] == ["default"]),
    ("create_grant", lambda w: grant(w), lambda w, a: w.remember("grant", a["GrantId"]) and a["GrantToken"]),
    ("list_grants", lambda w: {"KeyId": w.key}, lambda w, a: [g["GrantId"] for g in a["Grants"]] == [w.grant]),
    ("list_retirable_grants", lambda w: {"RetiringPrincipal": w.user("reeve")}, lambda w, a: len(a["Grants"]) == 1),
    ("decrypt", lambda w: {"CiphertextBlob": encrypted(w), "EncryptionContext": CONTEXT, "GrantTokens": [w.token()]}, lambda w, a: a["Plaintext"] == b"hello"),
    ("revoke_grant", lambda w: {"KeyId": w.key, "GrantId": w.grant}, lambda w, a: True),
    ("retire_grant", lambda w: {"GrantToken": w.token()}, lambda w, a: True),
    ("sign", lambda w: {"KeyId": w.signing, **SIGNING}, lambda w, a: w.remember("signature", a["Signature"]) and is_signed(w, a["Signature"])),
    ("verify", lambda w: {"KeyId": w.signing, **SIGNING, "Signature": w.signature}, lambda w, a: a["SignatureValid"]),
    ("get_public_key", lambda w: {"KeyId": w.signing}, lambda w, a: a["KeySpec"] == "ECC_NIST_P256" and a["SigningAlgorithms"] == ["ECDSA_SHA_256"]),
    ("generate_mac", lambda w: {"KeyId": w.authenticating, **MAC}, lambda w, a: w.remember("mac", a["Mac"]) and len(a["Mac"]) == 32),
    ("verify_mac", lambda w: {"KeyId": w.authenticating, **MAC, "Mac": w.mac}, lambda w, a: a["MacValid"]),
    ("generate_data_key_pair", lambda w: {"KeyId": w.key, "KeyPairSpec": "ECC_NIST_P256"}, lambda w, a: is_pair(a)),
    ("generate_data_key_pair_without_plaintext", lambda w: {"KeyId": w.key, "KeyPairSpec": "ECC_NIST_P256"}, lambda w, a: "PrivateKeyPlaintext" not in a),
    ("enable_key_rotation", lambda w: {"KeyId": w.other, "RotationPeriodInDays": 90}, lambda w, a: True),
    ("get_key_rotation_status", lambda w: {"KeyId": w.other}, lambda w, a: a["KeyRotationEnabled"] and a["RotationPeriodInDays"] == 90 and a["NextRotationDate"] > now()),
    ("disable_key_rotation", lambda w: {"KeyId": w.other}, lambda w, a: not w.kms.get_key_rotation_status(KeyId=w.other)["KeyRotationEnabled"]),
    ("get_key_last_usage", lambda w: {"KeyId": w.key}, lambda w, a: is_recent(a["KeyCreationDate"])),
    ("update_key_description", lambda w: {"KeyId": w.key, "Description": "new"}, lambda w, a: w.kms.describe_key(KeyId=w.key)["KeyMetadata"]["Description"] == "new"),
    ("get_parameters_for_import", lambda w: {"KeyId": w.external, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}, lambda w, a: a["ParametersValidTo"] > now()),
    ("import_key_material", lambda w: sealed_material(w), lambda w, a: w.state(w.external) == "Enabled"),
    ("delete_imported_key_material", lambda w: {"KeyId": w.external}, lambda w, a: w.state(w.external) == "PendingImport"),
    ("disable_key", lambda w: {"KeyId": w.other}, lambda w, a: w.state(w.other) == "Disabled"),
    ("enable_key", lambda w: {"KeyId": w.other}, lambda w, a: w.state(w.other) == "Enabled"),
    ("schedule_key_deletion", lambda w: {"KeyId": w.other, "PendingWindowInDays": 7}, lambda w, a: a["KeyState"] == "PendingDeletion" and a["DeletionDate"] > now()),
    ("cancel_key_deletion", lambda w: {"KeyId": w.other}, lambda w, a: w.state(w.other) == "Disabled"),
    ("enable_key", lambda w: {"KeyId": w.other}, lambda w, a: w.state(w.other) == "Enabled"),
]

REFUSALS = [
    ("describe_key", lambda w: {"KeyId": no_key(w)}, "NotFoundException"),
    ("describe_key", lambda w: {"KeyId": "alias/none"}, "NotFoundException"),
    ("describe_key", lambda w: {"KeyId": "arn:aws:kms:x"}, "InvalidArnException"),
    ("create_alias", lambda w: {"AliasName": "alias/aws/x", "TargetKeyId": w.key}, "InvalidAliasNameException"),
    ("create_alias", lambda w: {"AliasName": "alias/twice", "TargetKeyId": w.twice()}, "AlreadyExistsException"),
    ("delete_alias", lambda w: {"AliasName": "alias/none"}, "NotFoundException"),
    ("encrypt", lambda w: {"KeyId": w.disabled, "Plaintext": b"x"}, "DisabledException"),
    ("generate_data_key", lambda w: {"KeyId": w.disabled, "KeySpec": "AES_256"}, "DisabledException"),
    ("generate_data_key", lambda w: {"KeyId": w.pending, "KeySpec": "AES_256"}, "KMSInvalidStateException"),
    ("enable_key", lambda w: {"KeyId": w.pending}, "KMSInvalidStateException"),
    ("cancel_key_deletion", lambda w: {"KeyId": w.key}, "KMSInvalidStateException"),
    ("schedule_key_deletion", lambda w: {"KeyId": w.key, "PendingWindowInDays": 6}, "ValidationException"),
    ("decrypt", lambda w: {"CiphertextBlob": b"damaged"}, "InvalidCiphertextException"),
    ("decrypt", lambda w: {"CiphertextBlob": encrypted(w)}, "InvalidCiphertextException"),
    ("decrypt", lambda w: {"CiphertextBlob": encrypted(w), "EncryptionContext": CONTEXT, "KeyId": w.other}, "IncorrectKeyException"),
    ("encrypt", lambda w: {"KeyId": w.key, "Plaintext": b"x", "DryRun": True}, "DryRunOperationException"),
    ("tag_resource", lambda w: {"KeyId": w.key, "Tags": [{"TagKey": "aws:x", "TagValue": ""}]}, "TagException"),
    ("put_key_policy", lambda w: {"KeyId": w.key, "Policy": "{}"}, "MalformedPolicyDocumentException"),
    ("create_grant", lambda w: {**grant(w), "KeyId": w.disabled}, "DisabledException"),
    ("revoke_grant", lambda w: {"KeyId": w.key, "GrantId": "0" * 64}, "NotFoundException"),
    ("verify", lambda w: {"KeyId": w.signing, **SIGNING, "Signature": b"damaged"}, "KMSInvalidSignatureException"),
    ("verify_mac", lambda w: {"KeyId": w.authenticating, **MAC, "Mac": b"damaged"}, "KMSInvalidMacException"),
    ("encrypt", lambda w: {"KeyId": w.signing, "Plaintext": b"x"}, "InvalidKeyUsageException"),
    ("encrypt", lambda w: {"KeyId": w.external, "Plaintext": b"x"}, "KMSInvalidStateException"),
    ("import_key_material", lambda w: {**sealed_material(w), "ImportToken": b"damaged"}, "InvalidImportTokenException"),
    ("list_keys", lambda w: {"Marker": "not a marker"}, "InvalidMarkerException"),
]


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def is_recent(date):
    return abs(now() - date) < datetime.timedelta(hours=1)


def refused(w, operation, parameters, name):
    try:
        getattr(w.kms, operation)(**parameters)
    except botocore.exceptions.ClientError as error:
        code = error.response["Error"]["Code"]
        expect(code == name, f"{operation} answered {code}, not {name}: {error}")
        expect(error.response["Error"]["Message"], f"{operation}: no message")
        expect(error.response["ResponseMetadata"]["RequestId"], f"{operation}: no request id")
        modelled = getattr(w.kms.exceptions, name, None) if name in MODELLED else None
        expect(modelled is None or isinstance(error, modelled), f"{operation}: {type(error)} is not {name}")
        return
    raise AssertionError(f"{operation} was not refused with {name}")


# Exceptions that boto3 has a class for; the others arrive as ClientError.
MODELLED = {
    "NotFoundException",
    "InvalidArnException",
    "InvalidAliasNameException",
    "AlreadyExistsException",
    "DisabledException",
    "KMSInvalidStateException",
    "InvalidCiphertextException",
    "IncorrectKeyException",
    "DryRunOperationException",
    "InvalidImportTokenException",
    "InvalidKeyUsageException",
    "InvalidMarkerException",
    "KMSInvalidMacException",
    "KMSInvalidSignatureException",
    "MalformedPolicyDocumentException",
    "TagException",
}


def pages(w):
    """Paginators go on where a page ended, and see everything once."""
    keys = {w.kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(7)}
    expect(len(keys) == 7, "equal calls within a second are all carried out")
    for n, key in enumerate(sorted(keys)):
        w.kms.create_alias(AliasName=f"alias/page-{n}", TargetKeyId=key)
        w.kms.rotate_key_on_demand(KeyId=w.key)

    def listed(operation, result, **parameters):
        paginator = w.kms.get_paginator(operation)
        found = list(paginator.paginate(PaginationConfig={"PageSize": 3}, **parameters))
        expect(len(found) > 1, f"{operation} has one page")
        return [item for page in found for item in page[result]]

    found = [key["KeyId"] for key in listed("list_keys", "Keys")]
    expect(keys <= set(found) and len(found) == len(set(found)), "list_keys")
    aliases = [alias["AliasName"] for alias in listed("list_aliases", "Aliases")]
    expect({f"alias/page-{n}" for n in range(7)} <= set(aliases), "list_aliases")
    expect(len(listed("list_key_rotations", "Rotations", KeyId=w.key)) >= 7, "list_key_rotations")


def complete(w):
    """What is offered has a line in CALLS or needs a proxy; the rest of the API is refused as unsupported."""
    careless = client(config=botocore.config.Config(parameter_validation=False))
    called = {operation for operation, _, _ in CALLS} | WITH_A_PROXY
    for name in w.kms.meta.service_model.operation_names:
        operation = botocore.xform_name(name)
        if operation in called:
            continue
        try:
            getattr(careless, operation)()
        except botocore.exceptions.ClientError as error:
            code = error.response["Error"]["Code"]
            expect(code in NOT_OFFERED, f"{name} is offered and has no line in CALLS: {error}")
        else:
            raise AssertionError(f"{name} is offered and has no line in CALLS")


# Called in custom_key_stores.py.
WITH_A_PROXY = {
    f"{what}_custom_key_store" for what in ("create", "connect", "update", "disconnect", "delete")
} | {"describe_custom_key_stores"}
NOT_OFFERED = {"UnsupportedOperationException", "UnknownOperationException"}


def main():
    w = World()
    for operation, parameters, holds in CALLS:
        answer = getattr(w.kms, operation)(**parameters(w))
        expect(holds(w, answer), f"{operation} answered {answer}")
        print("ok", operation)
    for operation, parameters, name in REFUSALS:
        refused(w, operation, parameters(w), name)
        print("refused", operation, name)
    complete(w)
    print("ok complete")
    pages(w)
    print("ok pages")


main()
