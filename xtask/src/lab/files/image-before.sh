# The small image once more under the name $1, made to be booted from a disk of the instance's own.
images=/srv/firecracker/base/images
rm -rf "$images/$1"
mkdir "$images/$1"
ln "$images/tiny/"* "$images/$1/"
rm "$images/$1/manifest.json"
sed 's#"cmdline": "[^"]*"#"cmdline": "root=/dev/vda rw quiet"#; s#"name": "tiny"#"name": "'"$1"'"#' "$images/tiny/manifest.json" >"$images/$1/manifest.json"
