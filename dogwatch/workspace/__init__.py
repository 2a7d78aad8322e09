"""Trees of files in and out: archives, blobs and manifests. Nothing here runs, follows or unpacks what a sandbox wrote."""
