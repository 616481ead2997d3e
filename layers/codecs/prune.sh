#!/bin/sh
# Leave of imagecodecs what lenticular/codecs.py calls: layers/codecs/prune.sh SITE-PACKAGES
# Of its sixty codecs that is a handful. For the layer of the functions and the image of the gateway.
set -eu
cd "$1/imagecodecs"
wanted=" jpeg8 jpegsof3 jpegls jpeg2k htj2k imcd shared shared_cython "
for library in _*.so; do
    name=${library#_}
    case "$wanted" in *" ${name%%.*} "*) ;; *) rm "$library" ;; esac
done

# Of the libraries beside the wheel, those that what is left, and what these in turn, ask for.
cd ../imagecodecs.libs
keep='' new=$(ls ../imagecodecs/*.so)
while [ -n "$new" ]; do
    found=''
    for library in *; do
        case " $keep " in *" $library "*) continue ;; esac
        # shellcheck disable=SC2086 # a list of files
        if grep -qF -- "$library" $new; then
            keep="$keep $library"
            found="$found $library"
        fi
    done
    new=$found
done
for library in *; do
    case " $keep " in *" $library "*) ;; *) rm "$library" ;; esac
done
