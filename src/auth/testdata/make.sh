#!/bin/sh
# Makes the keys and tokens in this folder with OpenSSL, so that the tests check Fanfare against another implementation.
# The keys are worth nothing: they are public. Run it in this folder.
set -eu

base64url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }

# The signature of ES256 is two numbers of 32 bytes (RFC 7518, section 3.4); OpenSSL writes them as DER.
numbers() {
    openssl asn1parse -inform DER | sed -n 's/.*INTEGER *:\([0-9A-F]*\)$/\1/p' | while read -r hex; do
        printf '%64s' "$hex" | tr ' ' 0 | tail -c 64
    done | tr 'A-F' 'a-f' | sed 's/../\\x&/g' | xargs -0 printf '%b'
}

message() {
    printf '%s.%s' "$(printf '{"alg":"%s","typ":"JWT"}' "$1" | base64url)" "$(printf '{"sub":"ann"}' | base64url)"
}

openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.key.pem 2>/dev/null
openssl pkey -in rsa.key.pem -pubout -out rsa.pub.pem
openssl rsa -in rsa.key.pem -RSAPublicKey_out -out rsa.pkcs1.pem 2>/dev/null
openssl req -x509 -key rsa.key.pem -subj /CN=test -days 36500 -out rsa.crt.pem
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ec.key.pem
openssl pkey -in ec.key.pem -pubout -out ec.pub.pem
openssl genpkey -algorithm ED25519 -out ed.key.pem
openssl pkey -in ed.key.pem -pubout -out ed.pub.pem

message RS256 >message
printf '%s.%s' "$(cat message)" "$(openssl dgst -sha256 -sign rsa.key.pem message | base64url)" >rs256.jwt
message ES256 >message
printf '%s.%s' "$(cat message)" "$(openssl dgst -sha256 -sign ec.key.pem message | numbers | base64url)" >es256.jwt
message EdDSA >message
printf '%s.%s' "$(cat message)" "$(openssl pkeyutl -sign -rawin -inkey ed.key.pem -in message | base64url)" >eddsa.jwt
message HS256 >message
printf '%s.%s' "$(cat message)" \
    "$(openssl dgst -sha256 -mac HMAC -macopt key:a-token-secret-for-tests-of-32-bytes-or-more -binary message | base64url)" >hs256.jwt
rm message ec.key.pem ed.key.pem
