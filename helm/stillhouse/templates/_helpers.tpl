{{/* The name of every object: at most 47 characters, as KubeRay asks of a RayService. */}}
{{- define "stillhouse.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- $name = .Values.fullnameOverride -}}
{{- else if not (contains $name .Release.Name) -}}
{{- $name = printf "%s-%s" .Release.Name $name -}}
{{- else -}}
{{- $name = .Release.Name -}}
{{- end -}}
{{- $name = $name | trunc 47 | trimSuffix "-" -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "the name %q must start with a letter and hold only lower-case letters, digits and dashes: set fullnameOverride" $name) -}}
{{- end -}}
{{- $name -}}
{{- end }}

{{/* Labels that every object bears. */}}
{{- define "stillhouse.labels" -}}
{{ include "stillhouse.selectorLabels" . }}
app.kubernetes.io/component: endpoint
app.kubernetes.io/part-of: stillhouse
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels that stay the same for the life of a release. */}}
{{- define "stillhouse.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "stillhouse.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "stillhouse.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "stillhouse.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end }}

{{/* The claim of the models' volume. */}}
{{- define "stillhouse.modelsClaim" -}}
{{- default (printf "%s-models" (include "stillhouse.fullname" .)) .Values.models.existingClaim -}}
{{- end }}

{{/*
The Pod of the head or of a worker group.
Takes a dict: root (the chart's scope), group (its values), role (`head` or `worker`).
*/}}
{{- define "stillhouse.podTemplate" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include "stillhouse.selectorLabels" $root | nindent 4 }}
    app.kubernetes.io/component: endpoint
spec:
  serviceAccountName: {{ include "stillhouse.serviceAccountName" $root }}
  automountServiceAccountToken: false
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  {{- with .group.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .group.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: ray-{{ .role }}
      image: {{ include "stillhouse.image" $root | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      securityContext:
        allowPrivilegeEscalation: false
        capabilities:
          drop: [ALL]
      ports:
        {{- if eq .role "head" }}
        - name: gcs-server
          containerPort: 6379
        - name: dashboard
          containerPort: 8265
        - name: client
          containerPort: 10001
        {{- end }}
        - name: serve
          containerPort: {{ $root.Values.http.port }}
      env:
        - name: HF_HOME
          value: /models/huggingface
      {{- if or $root.Values.s3.existingSecret $root.Values.huggingFace.existingSecret }}
      envFrom:
        {{- range compact (list $root.Values.s3.existingSecret $root.Values.huggingFace.existingSecret) }}
        - secretRef:
            name: {{ . }}
        {{- end }}
      {{- end }}
      resources:
        {{- toYaml .group.resources | nindent 8 }}
      readinessProbe:
        {{- if eq .role "head" }}
        # On the head, Ray's health includes the GCS.
        httpGet:
          path: /api/healthz
          port: 52365
        initialDelaySeconds: 10
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 10
        {{- else }}
        # Traffic comes once Serve's proxy on this node answers. KubeRay's own probe would need wget in the image.
        httpGet:
          path: /-/healthz
          port: serve
        initialDelaySeconds: 10
        periodSeconds: 5
        timeoutSeconds: 10
        failureThreshold: 1
        {{- end }}
      livenessProbe:
        httpGet:
          path: /api/healthz
          port: 52365
        initialDelaySeconds: 30
        periodSeconds: 5
        timeoutSeconds: 5
        # Ten minutes: a node that loads a large model may be deaf for a while.
        failureThreshold: 120
      volumeMounts:
        - name: home
          mountPath: /home/stillhouse
        - name: tmp
          mountPath: /tmp
        - name: models
          mountPath: /models
  volumes:
    - name: home
      emptyDir: {}
    - name: tmp
      emptyDir: {}
    - name: models
      {{- if $root.Values.models.persistent }}
      persistentVolumeClaim:
        claimName: {{ include "stillhouse.modelsClaim" $root }}
      {{- else }}
      emptyDir: {}
      {{- end }}
{{- end }}
