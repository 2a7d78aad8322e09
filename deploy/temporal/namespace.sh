#!/bin/sh
# Waits until Temporal serves, and makes the namespace TEMPORAL_NAMESPACE where it is missing. Twice is fine.
set -eu
attempts=60

until temporal operator cluster health; do
  attempts=$((attempts - 1))
  if [ "$attempts" -le 0 ]; then
    echo "Temporal does not serve at $TEMPORAL_ADDRESS" >&2
    exit 1
  fi
  sleep 2
done

temporal operator namespace describe --namespace "$TEMPORAL_NAMESPACE" ||
  temporal operator namespace create --namespace "$TEMPORAL_NAMESPACE" --retention "$TEMPORAL_RETENTION"
