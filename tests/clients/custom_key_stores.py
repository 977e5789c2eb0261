"""External key stores through boto3, with a proxy that the environment names."""

import os

import botocore.exceptions

from world import client, expect

kms = client()
STORE = {
    "CustomKeyStoreName": "near",
    "CustomKeyStoreType": "EXTERNAL_KEY_STORE",
    "XksProxyUriEndpoint": os.environ["XKS_ENDPOINT"],
    "XksProxyUriPath": os.environ["XKS_PATH"],
    "XksProxyAuthenticationCredential": {
        "AccessKeyId": os.environ["XKS_ACCESS_KEY_ID"],
        "RawSecretAccessKey": os.environ["XKS_SECRET"],
    },
    "XksProxyConnectivity": "PUBLIC_ENDPOINT",
}


def refused(name, call):
    try:
        call()
    except botocore.exceptions.ClientError as error:
        # The client knows the exception by its name, as one of its model.
        expect(error.response["Error"]["Code"] == name, error)
        expect(type(error).__name__ == name, type(error))
        print("ok", name)
    else:
        raise AssertionError(f"no {name}")


store = kms.create_custom_key_store(**STORE)["CustomKeyStoreId"]
refused("CustomKeyStoreNameInUseException", lambda: kms.create_custom_key_store(**STORE))
kms.connect_custom_key_store(CustomKeyStoreId=store)
(known,) = kms.describe_custom_key_stores(CustomKeyStoreName="near")["CustomKeyStores"]
expect(known["ConnectionState"] == "CONNECTED", known)
expect(known["XksProxyConfiguration"]["UriPath"] == os.environ["XKS_PATH"], known)
print("ok connected")

made = kms.create_key(Origin="EXTERNAL_KEY_STORE", CustomKeyStoreId=store, XksKeyId="one")["KeyMetadata"]
expect(made["XksKeyConfiguration"] == {"Id": "one"} and made["CustomKeyStoreId"] == store, made)
refused(
    "XksKeyAlreadyInUseException",
    lambda: kms.create_key(Origin="EXTERNAL_KEY_STORE", CustomKeyStoreId=store, XksKeyId="one"),
)
refused(
    "XksKeyNotFoundException",
    lambda: kms.create_key(Origin="EXTERNAL_KEY_STORE", CustomKeyStoreId=store, XksKeyId="nothing"),
)
key, context = made["KeyId"], {"purpose": "test"}
data = kms.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=context)
opened = kms.decrypt(CiphertextBlob=data["CiphertextBlob"], EncryptionContext=context)
expect(opened["Plaintext"] == data["Plaintext"] and opened["KeyId"] == made["Arn"], opened)
print("ok decrypt")

kms.disconnect_custom_key_store(CustomKeyStoreId=store)
expect(kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Unavailable", "the key is unavailable")
refused(
    "KMSInvalidStateException",
    lambda: kms.decrypt(CiphertextBlob=data["CiphertextBlob"], EncryptionContext=context),
)
refused("CustomKeyStoreHasCMKsException", lambda: kms.delete_custom_key_store(CustomKeyStoreId=store))
kms.update_custom_key_store(CustomKeyStoreId=store, NewCustomKeyStoreName="far")
kms.connect_custom_key_store(CustomKeyStoreId=store)
opened = kms.decrypt(CiphertextBlob=data["CiphertextBlob"], EncryptionContext=context)
expect(opened["Plaintext"] == data["Plaintext"], "the key is back")
print("ok again")
